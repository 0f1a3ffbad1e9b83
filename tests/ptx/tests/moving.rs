//! Memory, exchanges between lanes, tensor cores, branches.

mod common;

use common::{Options, USUAL, run, run_with};
use ptx::{Order, Sums};

fn words(n: u32) -> Vec<u32> {
    (0..n).map(|i| i.wrapping_mul(2_654_435_761)).collect()
}

#[test]
fn vectors_travel_whole() {
    let input = words(128);
    let body = "shl.b32 %r2, %r1, 4; cvt.u64.u32 %rd5, %r2; add.s64 %rd6, %rd2, %rd5; add.s64 %rd7, %rd1, %rd5;
        ld.global.v4.f32 {%f1, %f2, %f3, %f4}, [%rd6];
        mov.u32 %r3, tile; add.s32 %r3, %r3, %r2;
        st.shared.v2.f32 [%r3], {%f1, %f2}; st.shared.v2.f32 [%r3+8], {%f3, %f4};
        ld.shared.v4.f32 {%f5, %f6, %f7, %f8}, [%r3];
        ld.shared.f64 %fd1, [%r3+8]; st.shared.f64 [%r3], %fd1;
        ld.shared.v2.f32 {%f9, %f10}, [%r3];
        st.global.v4.f32 [%rd7], {%f10, %f5, %f6, %f9};";
    let expected: Vec<u32> = input.chunks(4).flat_map(|four| [four[3], four[0], four[1], four[2]]).collect();
    assert_eq!(run(body, &input, 128).unwrap(), expected);
}

#[test]
fn smaller_values_keep_their_sign_or_not() {
    let body = "ld.global.s32 %rd8, [%rd2]; ld.global.u32 %rd9, [%rd2];
        setp.ne.s32 %p1, %r1, 0; @%p1 bra END; st.global.u64 [%rd1], %rd8; st.global.u64 [%rd1+8], %rd9; END:";
    assert_eq!(run(body, &[u32::MAX - 1], 4).unwrap(), [u32::MAX - 1, u32::MAX, u32::MAX - 1, 0]);
}

/// Lanes count to their own number, in a loop that each leaves at another time, with a branch inside.
#[test]
fn lanes_part_and_meet_again() {
    let body = "mov.u32 %r2, 0; mov.u32 %r3, 0;
        LOOP: setp.ge.u32 %p1, %r2, %r1; @%p1 bra DONE;
        and.b32 %r4, %r2, 1; setp.eq.s32 %p2, %r4, 0; @%p2 bra EVEN;
        add.s32 %r3, %r3, 100; bra.uni NEXT;
        EVEN: add.s32 %r3, %r3, 1;
        NEXT: add.s32 %r2, %r2, 1; bra.uni LOOP;
        DONE: mov.u32 %r5, 1; mov.u32 %r6, 31; mov.u32 %r7, -1;
        shfl.sync.bfly.b32 %r8|%p3, %r3, %r5, %r6, %r7;
        st.global.u32 [%rd3], %r8;";
    let sum = |n: u32| n.div_ceil(2) + 100 * (n / 2);
    let expected: Vec<u32> = (0..32).map(|lane| sum(lane ^ 1)).collect();
    assert_eq!(run(body, &[0], 32).unwrap(), expected);
}

#[test]
fn guarded_instructions_happen_where_the_guard_holds() {
    let body = "mov.u32 %r2, 7; setp.lt.s32 %p1, %r1, 3; @%p1 mov.u32 %r2, 8; @!%p1 add.s32 %r2, %r2, %r1;
        st.global.u32 [%rd3], %r2; @%p1 ret; st.global.u32 [%rd3], %r1;";
    let expected: Vec<u32> = (0..32).map(|lane| if lane < 3 { 8 } else { lane }).collect();
    assert_eq!(run(body, &[0], 32).unwrap(), expected);
}

/// Every warp reads what the next one wrote before the barrier.
#[test]
fn barriers_hold_in_every_order() {
    let body = "shl.b32 %r2, %r1, 2; st.shared.f32 [%r2], 0f00000000; bar.sync 0;
        add.s32 %r3, %r1, 32; and.b32 %r3, %r3, 127; shl.b32 %r3, %r3, 2; mov.b32 %f1, %r1;
        st.shared.f32 [%r3], %f1; bar.sync 0; ld.shared.f32 %f2, [%r2]; st.global.f32 [%rd3], %f2;";
    let body = body.replace("0f00000000;", "%f3;").replacen("shl.b32", "mov.f32 %f3, 0f00000000; shl.b32", 1);
    for order in [Order::Forward, Order::Reverse, Order::Random] {
        let (found, _) = run_with(&body, Options { threads: 128, order, ..USUAL }, &[0], 128).unwrap();
        assert_eq!(found, (0..128).map(|i: u32| i.wrapping_sub(32) & 127).collect::<Vec<_>>(), "{order:?}");
    }
}

/// Copies of 16 and of 4 bytes, with and without zeros in place of what lies outside.
#[test]
fn asynchronous_copies_arrive_when_they_are_waited_for() {
    let input = words(256);
    let body = "shl.b32 %r2, %r1, 4; cvt.u64.u32 %rd5, %r2; add.s64 %rd6, %rd2, %rd5; mov.u32 %r3, tile; add.s32 %r3, %r3, %r2;
        and.b32 %r4, %r1, 1; shl.b32 %r5, %r4, 4;
        cp.async.cg.shared.global [%r3],[%rd6],16,%r5; cp.async.commit_group;
        shl.b32 %r6, %r1, 2; add.s32 %r7, %r6, 1024; shl.b32 %r8, %r4, 2;
        cp.async.ca.shared.global [%r7],[%rd4],4,%r8; cp.async.commit_group;
        cp.async.wait_group 1; ld.shared.f32 %f1, [%r3+4]; st.global.f32 [%rd3], %f1;
        cp.async.wait_group 0; ld.shared.f32 %f2, [%r7]; st.global.f32 [%rd3+128], %f2;";
    let odd = |lane: usize, word: usize| if lane % 2 == 1 { input[word] } else { 0 };
    let expected: Vec<u32> =
        (0..32).map(|lane| odd(lane, 4 * lane + 1)).chain((0..32).map(|lane| odd(lane, lane))).collect();
    assert_eq!(run(body, &input, 64).unwrap(), expected);
}

/// All 64 bytes of 8 x 8 values of 16 bits, plain and transposed.
#[test]
fn matrices_are_loaded_as_the_manual_says() {
    let input = words(128);
    let half = |matrix: usize, row: usize, column: usize| {
        input[matrix * 32 + row * 4 + column / 2] >> (16 * (column % 2)) & 0xffff
    };
    for transposed in [false, true] {
        let name = if transposed { ".trans" } else { "" };
        let body = format!(
            "shl.b32 %r2, %r1, 4; cvt.u64.u32 %rd5, %r2; add.s64 %rd6, %rd2, %rd5; add.s64 %rd7, %rd1, %rd5;
            ld.global.v4.f32 {{%f1, %f2, %f3, %f4}}, [%rd6]; st.shared.v4.f32 [%r2], {{%f1, %f2, %f3, %f4}}; bar.sync 0;
            ldmatrix.sync.aligned.m8n8.x4{name}.shared.b16 {{%r3,%r4,%r5,%r6}},[%r2];
            mov.b32 %f5, %r3; mov.b32 %f6, %r4; mov.b32 %f7, %r5; mov.b32 %f8, %r6;
            st.global.v4.f32 [%rd7], {{%f5, %f6, %f7, %f8}};"
        );
        let found = run(&body, &input, 128).unwrap();
        for lane in 0..32 {
            for matrix in 0..4 {
                let (row, pair) = (lane / 4, lane % 4 * 2);
                let two =
                    [0, 1].map(|e| if transposed { half(matrix, pair + e, row) } else { half(matrix, row, pair + e) });
                assert_eq!(found[lane * 4 + matrix], two[0] | two[1] << 16, "lane {lane}, matrix {matrix}, {name}");
            }
        }
    }
}

/// Small whole numbers, whose products and sums are exact in every format: fragments in the places of the manual.
#[test]
fn products_multiply_what_the_manual_says() {
    let a = |row: usize, k: usize| (row * 3 + k * 5) as f32 % 7.0 - 3.0;
    let b = |k: usize, column: usize| (k * 2 + column * 3) as f32 % 5.0 - 2.0;
    let tf32 = |values: [f32; 2]| values[0].to_bits();
    let bf16 = |values: [f32; 2]| values[0].to_bits() >> 16 | values[1].to_bits() & 0xffff_0000;
    let f16 = |values: [f32; 2]| {
        let [low, high] = values.map(|value| u32::from(half::f16::from_f32(value).to_bits()));
        low | high << 16
    };
    type Pack = fn([f32; 2]) -> u32;
    for (name, depth, pack) in [
        ("8.row.col.f32.tf32.tf32", 8, tf32 as Pack),
        ("16.row.col.f32.bf16.bf16", 16, bf16),
        ("16.row.col.f32.f16.f16", 16, f16),
    ] {
        let per_word = depth / 8;
        let mut input = Vec::new();
        for lane in 0..32 {
            let (group, k) = (lane / 4, lane % 4 * per_word);
            let both = |value: &dyn Fn(usize) -> f32, k: usize| pack([value(k), value(k + per_word - 1)]);
            for r in 0..4 {
                input.push(both(&|k| a(group + 8 * (r % 2), k), k + depth / 2 * (r / 2)));
            }
            for r in 0..2 {
                input.push(both(&|k| b(k, group), k + depth / 2 * r));
            }
            input.extend([0, 0]);
        }
        let body = format!(
            "shl.b32 %r2, %r1, 5; cvt.u64.u32 %rd5, %r2; add.s64 %rd6, %rd2, %rd5;
            ld.global.v2.u32 {{%r3, %r4}}, [%rd6]; ld.global.v2.u32 {{%r5, %r6}}, [%rd6+8]; ld.global.v2.u32 {{%r7, %r8}}, [%rd6+16];
            mov.f32 %f1, 0f3F800000; mov.f32 %f2, %f1; mov.f32 %f3, %f1; mov.f32 %f4, %f1;
            mma.sync.aligned.m16n8k{name}.f32 {{%f1,%f2,%f3,%f4}},{{%r3,%r4,%r5,%r6}},{{%r7,%r8}},{{%f1,%f2,%f3,%f4}};
            shl.b32 %r9, %r1, 4; cvt.u64.u32 %rd7, %r9; add.s64 %rd8, %rd1, %rd7; st.global.v4.f32 [%rd8], {{%f1, %f2, %f3, %f4}};"
        );
        for sums in [Sums::Nearest, Sums::Hopper] {
            let (found, _) = run_with(&body, Options { sums, ..USUAL }, &input, 128).unwrap();
            for (i, found) in found.iter().enumerate() {
                let (lane, r) = (i / 4, i % 4);
                let (row, column) = (lane / 4 + 8 * (r / 2), lane % 4 * 2 + r % 2);
                let expected = 1.0 + (0..depth).map(|k| a(row, k) * b(k, column)).sum::<f32>();
                assert_eq!(f32::from_bits(*found), expected, "{name}, row {row}, column {column}, {sums:?}");
            }
        }
    }
}

/// One row and column of a TF32 product: what each value of the sum loses.
fn summed(old: f32, products: [(f32, f32); 2], sums: Sums) -> f32 {
    let input = [old, products[0].0, products[0].1, products[1].0, products[1].1].map(f32::to_bits);
    // Lane 0 holds row 0 and column 0: depths 0 and 4.
    let body = "mov.u32 %r3, 0; mov.u32 %r4, 0; mov.u32 %r5, 0; mov.u32 %r6, 0; mov.u32 %r7, 0; mov.u32 %r8, 0;
        ld.global.f32 %f1, [%rd2]; mov.f32 %f2, 0f00000000; mov.f32 %f3, %f2; mov.f32 %f4, %f2;
        setp.ne.s32 %p1, %r1, 0; @%p1 bra JOIN;
        ld.global.u32 %r3, [%rd2+4]; ld.global.u32 %r7, [%rd2+8]; ld.global.u32 %r5, [%rd2+12]; ld.global.u32 %r8, [%rd2+16];
        JOIN: mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%f1,%f2,%f3,%f4},{%r3,%r4,%r5,%r6},{%r7,%r8},{%f1,%f2,%f3,%f4};
        st.global.f32 [%rd3], %f1;";
    f32::from_bits(run_with(body, Options { sums, ..USUAL }, &input, 32).unwrap().0[0])
}

#[test]
fn sums_of_an_h100_are_cut_two_bits_below_and_rounded_towards_zero() {
    let last = f32::EPSILON;
    // A quarter of the last place counts, an eighth does not, however many there are.
    let quarter = (last / 4.0, 1.0);
    assert_eq!(summed(1.0, [(last / 2.0, 1.0), (last / 2.0, 1.0)], Sums::Hopper), 1.0 + last);
    assert_eq!(summed(1.0, [(last * 0.75, 1.0), quarter], Sums::Hopper), 1.0 + last);
    assert_eq!(summed(1.0, [(last * 0.75, 1.0), (last / 8.0, 1.0)], Sums::Hopper), 1.0, "towards zero");
    assert_eq!(summed(-1.0, [(last * 0.75, -1.0), (0.0, 0.0)], Sums::Hopper), -1.0);
    assert_eq!(summed(1.0, [(last * 0.75, 1.0), (0.0, 0.0)], Sums::Nearest), 1.0 + last);
    assert_eq!(summed(0.0, [(f32::INFINITY, 1.0), (0.0, 0.0)], Sums::Hopper), f32::INFINITY);
    // The lower 13 bits of a factor are ignored.
    assert_eq!(summed(0.0, [(1.0 + last, 1.0), (0.0, 0.0)], Sums::Hopper), 1.0);
}

/// The exponents that decide what is cut are those of the factors, not of the product.
#[test]
fn the_largest_exponent_is_a_sum_of_two() {
    let tiny = 2f32.powi(-24);
    // 1.5 * 1.5 = 2.25 counts as 2^0: two bits below its last place is 2^-25.
    assert_eq!(summed(-2.25, [(1.5, 1.5), (tiny / 4.0, 1.0)], Sums::Hopper), 0.0, "old sums count with their own");
    assert_eq!(summed(0.0, [(1.5, 1.5), (-1.5, 1.5)], Sums::Hopper), 0.0);
    assert_eq!(summed(-1.0, [(1.0, 1.0), (tiny / 2.0, 1.0)], Sums::Hopper), tiny / 2.0);
}

#[test]
fn conflicts_of_banks_and_sectors_are_counted() {
    let body = "shl.b32 %r2, %r1, 2; shl.b32 %r3, %r1, 3; mov.f32 %f1, 0f00000000;
        st.shared.f32 [%r2], %f1;
        bar.sync 0;
        st.shared.f32 [%r3], %f1;
        ld.global.f32 %f2, [%rd4];
        mul.wide.u32 %rd5, %r1, 32; add.s64 %rd5, %rd5, %rd2;
        ld.global.f32 %f3, [%rd5];
        st.global.f32 [%rd3], %f2;";
    let (_, counts) = run_with(body, USUAL, &words(256), 32).unwrap();
    let memory: Vec<(u64, u64)> =
        counts.0.iter().filter(|tally| tally.taken > 0).map(|tally| (tally.taken, tally.least)).collect();
    assert_eq!(memory, [(1, 1), (2, 1), (4, 4), (32, 4), (4, 4)]);
}
