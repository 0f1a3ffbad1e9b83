//! What must not pass: texts that cannot be read, and launches that do what no kernel may. Each message names the line
//! and the instruction.

mod common;

use common::{FIRST_LINE, Options, USUAL, run, run_with, text};
use ptx::Module;

/// Runs a body whose last line is at fault, in 64 threads.
fn refused(body: &str, expected: &str) {
    let message = run_with(body, Options { threads: 64, ..USUAL }, &[1; 64], 64).expect_err(body);
    let last = body.trim_end().lines().last().unwrap().trim();
    let line = FIRST_LINE + body.trim_end().lines().count() - 1;
    assert!(message.contains(expected), "`{expected}` expected: {message}");
    assert!(message.contains(&format!("line {line}: `{last}`")), "line {line}, `{last}` expected: {message}");
}

#[test]
fn texts_that_cannot_be_read() {
    for (line, expected) in [
        ("frobnicate.f32 %f1, %f2;", "unknown instruction `frobnicate.f32`"),
        ("add.f16 %f1, %f2, %f3;", "unknown instruction `add.f16`"),
        ("mma.sync.aligned.m16n8k4.row.col.f32.tf32.tf32.f32 {%f1},{%r1},{%r1},{%f1};", "unknown instruction"),
        ("ld.local.f32 %f1, [%r1];", "unknown instruction `ld.local.f32`"),
        ("cp.async.bulk.shared.global [%r1],[%rd1],16,%r1;", "unknown kind of copy"),
        ("add.s32 %r1, %r2;", "3 operands expected, found 2"),
        ("add.s32 %r1, %r2, %r99;", "no register `%r99`"),
        ("add.s32 %r1, %r2, %rd1;", "`%rd1` has another type"),
        ("add.f32 %f1, %f2, 1;", "`1` is no value of the instruction's type"),
        ("add.s32 %r1, %r2, 4294967296;", "`4294967296` is no value"),
        ("cvt.rna.tf32.f32 %r1, %rd1;", "`%rd1` has another type"),
        ("ld.global.f32 %fd1, [%rd1];", "`%fd1` has another type"),
        ("mov.u32 %f1, %r1;", "`%f1` has another type"),
        ("ld.global.f32 %f1, [%r1];", "`%r1` has another type"),
        ("ld.shared.f32 %f1, [%rd1];", "`%rd1` has another type"),
        ("ld.param.u64 %rd1, [in+4];", "bytes 4 to 12 of a parameter of 8"),
        ("ld.param.u64 %rd1, [other];", "no parameter `other`"),
        ("cp.async.cg.shared.global [%r1],[%rd1],8,%r1;", "copies of [16] bytes expected"),
        (
            "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%f1,%f2,%f3,%f4},{%r1,%r2,%r3,%r4},{%r5},{%f1,%f2,%f3,%f4};",
            "2 registers expected, found 1",
        ),
        (
            "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%f1,%f2,%f3,%f4},{%f1,%f2,%f3,%f4},{%r5,%r6},{%f1,%f2,%f3,%f4};",
            "`%f1` has another type",
        ),
        ("bra NOWHERE;", "no label `NOWHERE`"),
        ("bar.sync 16;", "the number of a barrier expected"),
        ("add.s32 %r1, %r2, %r3", "`,` or `;` expected"),
        (".local .b8 stack[16];", "unknown directive `.local`"),
    ] {
        let error = Module::read(&text(line)).expect_err(line);
        assert!(error.message.contains(expected), "{line}: `{expected}` expected: {error}");
        // A missing semicolon shows on the next line.
        let at = FIRST_LINE + usize::from(!line.ends_with(';'));
        assert_eq!(error.line, at, "{error}");
        assert!(!line.ends_with(';') || error.text == line, "{error}");
    }
    let newer = text("").replace("7.0", "8.7");
    assert!(Module::read(&newer).unwrap_err().to_string().contains("version 8.7"));
    assert!(Module::read(".version 7.0\n.func helper").unwrap_err().to_string().contains("unknown directive `.func`"));
    assert!(Module::read(".visible .entry f(").unwrap_err().to_string().contains("ends too early"));
}

#[test]
fn registers_that_were_never_written() {
    let never = |lane: usize| format!("a value that lane {lane} made of a register it never wrote");
    refused("st.global.u32 [%rd3], %r9;", &never(0));
    refused("add.s32 %r2, %r1, %r9;\nst.global.u32 [%rd3], %r2;", &never(0));
    refused("AGAIN:\nsetp.lt.s32 %p1, %r9, 1;\n@%p1 bra AGAIN;", &never(0));
    let some = "setp.lt.u32 %p1, %r1, 40;\n@%p1 mov.u32 %r2, 1;\n";
    refused(&format!("{some}st.global.u32 [%rd3], %r2;"), &never(8));
    refused(&format!("{some}selp.b32 %r3, %r1, %r2, %p1;\nst.global.u32 [%rd3], %r3;"), &never(8));
    // What is not chosen does not matter.
    let chosen = format!("{some}add.s32 %r2, %r2, 1;\nselp.b32 %r3, %r2, %r1, %p1;\nst.global.u32 [%rd3], %r3;");
    run_with(&chosen, Options { threads: 64, ..USUAL }, &[1], 64).unwrap();
}

#[test]
fn addresses_outside_of_arrays() {
    refused("ld.global.u32 %r2, [%rd4+256];", "global address");
    refused("ld.global.u32 %r2, [%rd4+-4];", "lane 0: global address");
    refused("mov.u32 %r2, 0;\nst.global.u32 [%rd3+4], %r2;", "lane 31: global address");
    refused("ld.global.f32 %f1, [%rd4+1];", "lane 0: address");
    refused("ld.global.v4.f32 {%f1, %f2, %f3, %f4}, [%rd4];", "does not start on the 16 bytes of the access");
    refused(
        "mov.f32 %f1, 0f00000000;\nmov.u32 %r2, 9216;\nst.shared.f32 [%r2], %f1;",
        "shared address 0x2400, there are 9216 bytes",
    );
    refused("mov.u32 %r2, 0;\ncp.async.ca.shared.global [%r2],[%rd4],16,%r2;", "does not start on the 16 bytes");
    refused(
        "shl.b32 %r2, %r1, 4;\nmov.u32 %r3, 16;\ncvt.u64.u32 %rd5, %r2;\nadd.s64 %rd5, %rd5, %rd2;\ncp.async.cg.shared.global [%r2],[%rd5],16,%r3;",
        "lane 16: global address",
    );
}

#[test]
fn shared_memory_that_was_never_written() {
    refused("mov.u32 %r2, 64;\nld.shared.f32 %f1, [%r2];", "shared address 0x40 is read and was never written");
}

#[test]
fn races_between_barriers() {
    let own = "shl.b32 %r2, %r1, 2; mov.b32 %f1, %r1;\nst.shared.f32 [%r2], %f1;\n";
    // A lane of the same warp, the other warp, everyone at once, and what another still reads.
    refused(
        &format!("{own}sub.s32 %r3, 124, %r2;\nld.shared.f32 %f2, [%r3];"),
        "race: thread 31 wrote shared address 0x7c",
    );
    refused(
        &format!("{own}bar.sync 0;\nmov.u32 %r4, 8;\nst.shared.f32 [%r4], %f1;"),
        "race: thread 0 wrote shared address 0x8 since the last barrier, too",
    );
    refused(
        &format!("{own}bar.sync 0;\nsub.s32 %r3, 252, %r2;\nld.shared.f32 %f2, [%r3];\nst.shared.f32 [%r2+128], %f1;"),
        "race: another thread has read shared address",
    );
    refused(
        &format!("{own}ldmatrix.sync.aligned.m8n8.x4.shared.b16 {{%r5,%r6,%r7,%r8}},[0];").replace("[0]", "[tile]"),
        "race: thread 0 wrote",
    );
}

#[test]
fn copies_that_nobody_waited_for() {
    let copy =
        "shl.b32 %r2, %r1, 2; mov.u32 %r3, 4;\ncp.async.ca.shared.global [%r2],[%rd4],4,%r3;\ncp.async.commit_group;\n";
    refused(&format!("{copy}ld.shared.f32 %f1, [%r2];"), "is read before its asynchronous copy was waited for");
    refused(
        &format!("{copy}cp.async.wait_group 1;\nld.shared.f32 %f1, [%r2];"),
        "is read before its asynchronous copy was waited for",
    );
    refused(
        &format!("{copy}mov.f32 %f1, 0f00000000;\nst.shared.f32 [%r2], %f1;"),
        "is written while an asynchronous copy goes there",
    );
    refused(
        &format!("{copy}cp.async.wait_group 0;\nsub.s32 %r5, 124, %r2;\nld.shared.f32 %f1, [%r5];"),
        "race: thread 31",
    );
    let message = run(copy, &[1; 32], 32).unwrap_err();
    assert!(message.contains("ended with asynchronous copies"), "{message}");
    refused(
        "mov.u32 %r2, 20;\nmov.u32 %r3, 32;\ncp.async.cg.shared.global [%r3],[%rd2],16,%r2;",
        "a copy of 16 bytes, 20 of them from global memory",
    );
}

#[test]
fn what_all_lanes_must_do_together() {
    let part = "mov.u32 %r2, 0; mov.u32 %r3, 31; mov.u32 %r4, -1; mov.f32 %f1, 0f00000000; setp.lt.u32 %p1, %r1, 3; @%p1 bra END;\n";
    let behind = |line: &str| format!("{part}{line}");
    let check = |line: &str, expected: &str| {
        let message = run(&(behind(line) + "\nEND:"), &[1; 32], 32).expect_err(line);
        assert!(message.contains(expected) && message.contains(line), "{message}");
    };
    check("bar.sync 0;", "all lanes must come here together, the lanes 0x7 do not");
    check("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r5,%r6,%r7,%r8},[tile];", "all lanes must come here together");
    check(
        "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%f1,%f1,%f1,%f1},{%r2,%r2,%r2,%r2},{%r2,%r2},{%f1,%f1,%f1,%f1};",
        "all lanes must come here together",
    );
    check("shfl.sync.bfly.b32 %r5|%p2, %r2, %r3, %r3, %r4;", "a shuffle among the lanes 0xffffffff");
    let ended = part.replace("bra END", "ret") + "bar.sync 0;";
    assert!(run(&ended, &[1; 32], 32).unwrap_err().contains("all lanes must come here together"));
}

#[test]
fn barriers_that_a_warp_does_not_reach() {
    for body in [
        "setp.lt.u32 %p1, %r1, 32; @%p1 bra END;\nbar.sync 0;\nEND:",
        "setp.lt.u32 %p1, %r1, 32; @%p1 bra END;\nbar.sync 0;\nbra DONE;\nEND:\nbar.sync 0;\nDONE:",
    ] {
        let message = run_with(body, Options { threads: 64, ..USUAL }, &[1], 1).unwrap_err();
        assert!(
            message.contains("a barrier that not all threads reach") && message.contains("`bar.sync 0;`"),
            "{message}"
        );
    }
}

#[test]
fn launches_that_do_not_fit_the_text() {
    refused("mov.u32 %r2, 0;\ndiv.u32 %r3, %r1, %r2;", "a division by zero");
    let message = run_with("", Options { threads: 1024 + 32, ..USUAL }, &[1], 1).unwrap_err();
    assert!(message.contains("1056 threads in a block, the text allows 1024"), "{message}");
}
