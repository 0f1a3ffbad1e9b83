//! Instructions that compute: each with operands for which a mistake would show.

mod common;

/// What a body leaves in a register, from four words: `%r2` to `%r5`, `%f2` to `%f5` the same as floats, `%rd10`,
/// `%rd11`, `%fd2` and `%fd3` two each.
fn result(body: &str, register: &str, input: [u32; 4], fused: bool) -> u64 {
    let store = match register.trim_start_matches('%').trim_end_matches(char::is_numeric) {
        "r" => "st.global.u32 [%rd3],",
        "f" => "st.global.f32 [%rd3],",
        "rd" => "st.global.u64 [%rd3],",
        "fd" => "st.global.f64 [%rd3],",
        _ => "selp.b32 %r30, 1, 0, %p9; mov.u32 %r31, 0; st.global.u32 [%rd3],",
    };
    let register = if register.starts_with("%p") { "%r30" } else { register };
    let body = format!(
        "ld.global.u32 %r2, [%rd2]; ld.global.u32 %r3, [%rd2+4]; ld.global.u32 %r4, [%rd2+8]; ld.global.u32 %r5, [%rd2+12];
         mov.b32 %f2, %r2; mov.b32 %f3, %r3; mov.b32 %f4, %r4; mov.b32 %f5, %r5;
         mov.b64 %rd10, {{%r2,%r3}}; mov.b64 %rd11, {{%r4,%r5}}; mov.b64 %fd2, {{%r2,%r3}}; mov.b64 %fd3, {{%r4,%r5}};
         {body}
         setp.ne.s32 %p1, %r1, 0;
         @%p1 bra END;
         {store} {register};
         END:"
    );
    let options = common::Options { fused, ..common::USUAL };
    let (out, _) = common::run_with(&body, options, &input, 2).unwrap_or_else(|error| panic!("{body}: {error}"));
    u64::from(out[1]) << 32 | u64::from(out[0])
}

fn single(instruction: &str, values: [f32; 3]) -> f32 {
    let [a, b, c] = values.map(f32::to_bits);
    f32::from_bits(result(&format!("{instruction};"), "%f9", [a, b, c, 0], true) as u32)
}

fn double(instruction: &str, values: [f64; 2]) -> f64 {
    let [a, b] = values.map(f64::to_bits);
    f64::from_bits(result(
        &format!("{instruction};"),
        "%fd9",
        [a as u32, (a >> 32) as u32, b as u32, (b >> 32) as u32],
        true,
    ))
}

const MINUS: u32 = -7i32 as u32;

#[test]
fn integers() {
    for (instruction, a, b, expected) in [
        ("add.s32 %r9, %r2, %r3", u32::MAX, 3, 2),
        ("sub.s32 %r9, %r2, %r3", 3, 5, u32::MAX - 1),
        ("neg.s32 %r9, %r2", 7, 0, MINUS),
        ("mul.lo.s32 %r9, %r2, %r3", 0x1_0001, 0x1_0002, 0x3_0002),
        ("mad.lo.s32 %r9, %r2, 10, %r3", 7, 5, 75),
        ("div.s32 %r9, %r2, %r3", MINUS, 2, -3i32 as u32),
        ("div.u32 %r9, %r2, %r3", MINUS, 2, MINUS / 2),
        ("rem.u32 %r9, %r2, %r3", 17, 5, 2),
        ("min.s32 %r9, %r2, %r3", MINUS, 2, MINUS),
        ("max.s32 %r9, %r2, %r3", MINUS, 2, 2),
        ("and.b32 %r9, %r2, %r3", 12, 10, 8),
        ("or.b32 %r9, %r2, %r3", 12, 10, 14),
        ("not.b32 %r9, %r2", 12, 0, !12),
        ("shl.b32 %r9, %r2, %r3", 3, 31, 1 << 31),
        ("shl.b32 %r9, %r2, %r3", 3, 32, 0),
        ("shr.u32 %r9, %r2, %r3", MINUS, 1, MINUS >> 1),
        ("shr.s32 %r9, %r2, %r3", MINUS, 1, -4i32 as u32),
        ("shr.s32 %r9, %r2, %r3", MINUS, 40, u32::MAX),
        ("bfi.b32 %r9, %r2, %r3, 4, 8", 0xabc, 0xffff_ffff, 0xffff_fbcf),
        ("bfi.b32 %r9, %r2, %r3, 0, 32", 0xabc, 0xffff_ffff, 0xabc),
        ("mov.u32 %r9, -1", 0, 0, u32::MAX),
        ("mov.u32 %r9, dynamic", 0, 0, 8192),
        ("mov.u32 %r9, %ntid.x", 0, 0, 32),
    ] {
        let found = result(&format!("{instruction};"), "%r9", [a, b, 0, 0], true);
        assert_eq!(found, u64::from(expected), "{instruction} of {a:#x}, {b:#x}");
    }
}

#[test]
fn long_integers() {
    let minus = -7i64 as u64;
    for (instruction, a, b, expected) in [
        ("add.s64 %rd9, %rd10, %rd11", u64::MAX, 3u64, 2),
        ("sub.s64 %rd9, %rd10, %rd11", 3, 5, u64::MAX - 1),
        ("neg.s64 %rd9, %rd10", 7, 0, minus),
        ("mul.lo.s64 %rd9, %rd10, %rd11", 1 << 40, 3, 3 << 40),
        ("mul.wide.s32 %rd9, %r2, %r4", minus, 1 << 30, (-7i64 << 30) as u64),
        ("mul.wide.u32 %rd9, %r2, %r4", u64::from(u32::MAX), 2, 2 * u64::from(u32::MAX)),
        ("div.u64 %rd9, %rd10, %rd11", minus, 2, minus / 2),
        ("rem.u64 %rd9, %rd10, %rd11", 1 << 40, 7, (1 << 40) % 7),
        ("and.b64 %rd9, %rd10, -4294967296", minus, 0, 0xffff_ffff_0000_0000),
        ("or.b64 %rd9, %rd10, %rd11", 12, 10, 14),
        ("shl.b64 %rd9, %rd10, 63", 3, 0, 1 << 63),
        ("shr.u64 %rd9, %rd10, 1", minus, 0, minus >> 1),
        ("shr.s64 %rd9, %rd10, 70", minus, 0, u64::MAX),
        ("cvt.s64.s32 %rd9, %r2", minus, 0, minus),
        ("cvt.s64.s32 %rd9, %rd10", 1 << 40 | 5, 0, 5),
        ("cvt.u64.u32 %rd9, %r2", minus, 0, u64::from(MINUS)),
        ("mov.u64 %rd9, %rd10", minus, 0, minus),
        ("selp.b64 %rd9, %rd10, %rd11, 0", 1, 2, 2),
    ] {
        let input = [a as u32, (a >> 32) as u32, b as u32, (b >> 32) as u32];
        assert_eq!(
            result(&format!("{instruction};"), "%rd9", input, true),
            expected,
            "{instruction} of {a:#x}, {b:#x}"
        );
    }
    assert_eq!(result("cvt.u32.u64 %r9, %rd10;", "%r9", [5, 1, 0, 0], true), 5);
}

#[test]
fn floats() {
    let nan = f32::NAN;
    for (instruction, values, expected) in [
        ("add.f32 %f9, %f2, %f3", [1.5, 2.25, 0.0], 3.75),
        ("sub.f32 %f9, %f2, %f3", [1.5, 2.25, 0.0], -0.75),
        ("mul.f32 %f9, %f2, 0fC0000000", [1.5, 0.0, 0.0], -3.0),
        ("div.rn.f32 %f9, %f2, %f3", [1.0, 3.0, 0.0], 1.0 / 3.0),
        ("rcp.rn.f32 %f9, %f2", [3.0, 0.0, 0.0], 1.0 / 3.0),
        ("sqrt.rn.f32 %f9, %f2", [2.0, 0.0, 0.0], std::f32::consts::SQRT_2),
        ("ex2.approx.ftz.f32 %f9, %f2", [-3.0, 0.0, 0.0], 0.125),
        ("ex2.approx.ftz.f32 %f9, %f2", [-127.0, 0.0, 0.0], 0.0),
        ("abs.f32 %f9, %f2", [-3.0, 0.0, 0.0], 3.0),
        ("neg.f32 %f9, %f2", [-3.0, 0.0, 0.0], 3.0),
        ("copysign.f32 %f9, %f2, %f3", [-3.0, 5.0, 0.0], -5.0),
        ("max.f32 %f9, %f2, %f3", [nan, 5.0, 0.0], 5.0),
        ("cvt.sat.f32.f32 %f9, %f2", [nan, 0.0, 0.0], 0.0),
        ("cvt.sat.f32.f32 %f9, %f2", [1.5, 0.0, 0.0], 1.0),
        ("cvt.sat.f32.f32 %f9, %f2", [0.25, 0.0, 0.0], 0.25),
        ("cvt.rn.f32.s32 %f9, -16777217", [0.0; 3], -16777216.0),
        ("mov.f32 %f9, 0f40490FDB", [0.0; 3], std::f32::consts::PI),
        ("selp.f32 %f9, %f2, %f3, 1", [1.0, 2.0, 0.0], 1.0),
    ] {
        assert_eq!(single(instruction, values), expected, "{instruction} of {values:?}");
    }
    for (instruction, values, expected) in [
        ("add.f64 %fd9, %fd2, %fd3", [1.5, 2.25], 3.75),
        ("mul.f64 %fd9, %fd2, %fd3", [1.5, 3.0], 4.5),
        ("div.rn.f64 %fd9, %fd2, %fd3", [1.0, 3.0], 1.0 / 3.0),
        ("rcp.rn.f64 %fd9, %fd2", [3.0, 0.0], 1.0 / 3.0),
        ("sqrt.rn.f64 %fd9, %fd2", [2.0, 0.0], std::f64::consts::SQRT_2),
        ("min.f64 %fd9, %fd2, %fd3", [1.5, f64::NAN], 1.5),
        ("mov.f64 %fd9, 0dC000000000000000", [0.0; 2], -2.0),
        (
            "fma.rn.f64 %fd9, %fd2, %fd2, %fd3",
            [1.0 + f64::EPSILON, -1.0],
            2.0 * f64::EPSILON + f64::EPSILON * f64::EPSILON,
        ),
        ("selp.f64 %fd9, %fd2, %fd3, 0", [1.0, 2.0], 2.0),
    ] {
        assert_eq!(double(instruction, values), expected, "{instruction} of {values:?}");
    }
    assert_eq!(
        result("cvt.f64.f32 %fd9, %f2;", "%fd9", [0.1f32.to_bits(), 0, 0, 0], true),
        f64::from(0.1f32).to_bits()
    );
    let tenth = 0.1f64.to_bits();
    let bits = result("cvt.rn.f32.f64 %f9, %fd2;", "%f9", [tenth as u32, (tenth >> 32) as u32, 0, 0], true);
    assert_eq!(bits, u64::from(0.1f32.to_bits()));
}

/// Products and sums rounded once, twice and down, compared with the mathematics library on numbers that need it.
#[test]
fn fused_products() {
    let mut state = 1u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        f32::from_bits((state >> 9) | (120 + (state >> 3) % 16) << 23 | (state & 1) << 31)
    };
    for _ in 0..300 {
        let (a, b) = (next(), next());
        let c = if a.to_bits() & 4 == 0 { -(a * b) } else { next() };
        let input = [a, b, c].map(f32::to_bits);
        let bits = |name: &str, fused| {
            let body = format!("{name} %f9, %f2, %f3, %f4;");
            f32::from_bits(result(&body, "%f9", [input[0], input[1], input[2], 0], fused) as u32)
        };
        let exact = f64::from(a) * f64::from(b) + f64::from(c);
        assert_eq!(bits("fma.rn.f32", true), a.mul_add(b, c), "{a} {b} {c}");
        assert_eq!(bits("fma.rn.f32", false), a * b + c);
        let down = bits("fma.rm.f32", true);
        assert!(f64::from(down) <= exact && f64::from(down.next_up()) > exact.next_down(), "{a} {b} {c}: {down}");
    }
}

#[test]
fn comparisons() {
    let [one, two, nan] = [1.0f32, 2.0, f32::NAN].map(f32::to_bits);
    for (name, a, b, expected) in [
        ("eq.s32", 5, 5, true),
        ("ne.s32", 5, 5, false),
        ("lt.s32", MINUS, 5, true),
        ("le.s32", 5, 5, true),
        ("gt.s32", MINUS, 5, false),
        ("ge.s32", 5, 5, true),
        ("lt.u32", MINUS, 5, false),
        ("gt.u32", MINUS, 5, true),
        ("ge.u32", 5, 5, true),
        ("eq.f32", one, one, true),
        ("eq.f32", nan, nan, false),
        ("lt.f32", one, two, true),
        ("gt.f32", one, two, false),
        ("ge.f32", two, two, true),
        ("ge.f32", nan, two, false),
        ("ltu.f32", nan, two, true),
        ("ltu.f32", two, one, false),
    ] {
        let register = if name.ends_with("f32") { "f" } else { "r" };
        let found = result(&format!("setp.{name} %p9, %{register}2, %{register}3;"), "%p9", [a, b, 0, 0], true);
        assert_eq!(found, u64::from(expected), "{name} of {a:#x}, {b:#x}");
    }
    let nan = (f64::NAN.to_bits() >> 32) as u32;
    for (name, a, b, expected) in [
        ("eq.s64", [1, 2], [1, 3], false),
        ("ne.s64", [1, 2], [1, 3], true),
        ("lt.u64", [0, u32::MAX], [1, 0], false),
        ("ge.u64", [0, u32::MAX], [1, 0], true),
        ("leu.f64", [0, nan], [0, 0], true),
        ("geu.f64", [0, 0], [0, 0x3ff0_0000], false),
    ] {
        let (x, y) = if name.ends_with("f64") { ("%fd2", "%fd3") } else { ("%rd10", "%rd11") };
        let found = result(&format!("setp.{name} %p9, {x}, {y};"), "%p9", [a[0], a[1], b[0], b[1]], true);
        assert_eq!(found, u64::from(expected), "{name}");
    }
    let predicates = "setp.lt.s32 %p2, %r2, %r3; mov.pred %p3, 0; mov.pred %p4, -1;";
    for (instruction, expected) in [
        ("and.pred %p9, %p2, %p4", true),
        ("and.pred %p9, %p2, %p3", false),
        ("or.pred %p9, %p3, %p2", true),
        ("not.pred %p9, %p2", false),
    ] {
        let found = result(&format!("{predicates} {instruction};"), "%p9", [1, 2, 0, 0], true);
        assert_eq!(found, u64::from(expected), "{instruction}");
    }
}

#[test]
fn formats_of_tensor_cores() {
    let bits = |instruction: &str, a: f32, b: f32| {
        result(&format!("{instruction};"), "%r9", [a.to_bits(), b.to_bits(), 0, 0], true) as u32
    };
    // A tie goes away from zero.
    let tie = 1.0 + 1.0 / 2048.0;
    assert_eq!(bits("cvt.rna.tf32.f32 %r9, %f2", tie, 0.0), (1.0f32 + 1.0 / 1024.0).to_bits());
    assert_eq!(bits("cvt.rna.tf32.f32 %r9, %f2", f32::INFINITY, 0.0), f32::INFINITY.to_bits());
    assert_eq!(bits("cvt.rn.bf16x2.f32 %r9, %f2, %f3", 1.0, 2.0), 0x3f80_4000, "the first is the upper half");
    assert_eq!(bits("cvt.rn.bf16x2.f32 %r9, %f2, %f3", f32::NAN, 1.0 + 1.0 / 256.0), 0x7fff_3f80, "a tie goes to even");
    assert_eq!(bits("cvt.rn.f16x2.f32 %r9, %f2, %f3", 65520.0, 2f32.powi(-24)), 0x7c00_0001);
    let split = "mov.b64 {%r8,%r9}, %fd2;";
    assert_eq!(result(split, "%r8", [5, 6, 0, 0], true), 5);
    assert_eq!(result(split, "%r9", [5, 6, 0, 0], true), 6);
}
