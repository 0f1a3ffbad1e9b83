//! Faults planted in the text of the committed PTX, one at a time: each must be caught (the table in docs/cuda.md).

use crate::emulator::{Emulator, Setting};
use crate::ops::*;
use actpatch::backend::{Backend, CpuBackend, CudaBackend, Dtype, NormKind, Result};
use actpatch::types::Activation;
use regex::Regex;

/// What shows a fault.
enum Caught {
    /// The text is not loaded, for this reason.
    Refused(&'static str),
    /// A launch goes wrong, for this reason.
    Launch(&'static str),
    /// Other values than the CPU's.
    Values,
}
use Caught::{Launch, Refused, Values};

/// Small, and of every kind of instruction.
enum Small {
    Product(Dtype),
    /// Whose arrays fill their memory to the last value.
    Filled,
    Norm,
    Attention,
    Gelu,
    Rotation,
}
use Small::*;

impl Case for Small {
    fn run<B: Backend>(&self, backend: &B) -> Result<Vec<Vec<f32>>> {
        match *self {
            Product(dtype) => ProductCase { rows: 65, inputs: 72, outputs: 66, dtype }.run(backend),
            Filled => ProductCase { rows: 8, inputs: 64, outputs: 64, dtype: Dtype::F32 }.run(backend),
            Norm => NormCase { rows: 3, width: 130, kind: NormKind::Layer, gain: true, bias: true }.run(backend),
            Attention => {
                let lengths = &[(6, 70, 66), (1, 4, 1)];
                AttentionCase { count: 2, kv_count: 1, width: 12, window: None, lengths }.run(backend)
            }
            Gelu => ActivationCase(Activation::Gelu).run(backend),
            Rotation => RotationCase { d: 70, k: 2, degree: 3, size: 1.0 }.run(backend),
        }
    }
}

/// Replaces, in the text of one kernel, the first match of a pattern that begins behind the first match of another.
struct Plant {
    kernel: &'static str,
    behind: &'static str,
    from: &'static str,
    to: &'static str,
    case: Small,
    caught: Caught,
}

const fn plant(kernel: &'static str, [behind, from, to]: [&'static str; 3], case: Small, caught: Caught) -> Plant {
    Plant { kernel, behind, from, to, case, caught }
}

const BF16: Small = Product(Dtype::Bf16);
const F32: Small = Product(Dtype::F32);

fn plants() -> Vec<Plant> {
    let mma = r"(mma\S+ \{\S+?\}),\{(%r\d+),(%r\d+),(%r\d+),(%r\d+)\},\{(%r\d+),(%r\d+)\}";
    vec![
        // Operands swapped.
        plant("matmul_f32", ["", mma, "$1,{$2,$4,$3,$5},{$6,$7}"], F32, Values),
        plant("matmul_f32", ["", mma, "$1,{$2,$3,$4,$5},{$7,$6}"], F32, Values),
        plant("pack_bf16", ["", r"(cvt.rn.bf16x2.f32 %r\d+), (%f\d+), (%f\d+);", "$1, $3, $2;"], BF16, Values),
        plant("activate_values", ["", r"(copysign.f32 \t?%f\d+), (%f\d+), (%f\d+);", "$1, $3, $2;"], Gelu, Values),
        plant("matmul_f32", ["", r"selp.b32 \t%r(\d+), 0, 16,", "selp.b32 \t%r$1, 16, 0,"], F32, Values),
        plant(
            "matmul_f32",
            ["", r"cp.async.cg.shared.global \[(%r\d+)\],\[(%rd\d+)\]", "cp.async.cg.shared.global [$2],[$1]"],
            F32,
            Refused("has another type"),
        ),
        plant("matmul_f32", ["", r"mma\S+ \S+;", ""], F32, Values),
        // A constraint that is wrong.
        plant(
            "matmul_f32",
            ["", r"(ldmatrix\S+ \{%r\d+,%r\d+,%r\d+,%r\d+\}),\[%r\d+\]", "$1,[%rd1]"],
            F32,
            Refused("`%rd1` has another type"),
        ),
        plant(
            "pack_tf32",
            ["", r"(cvt.rna.tf32.f32) (%r\d+), %f\d+", "$1 $2, %rd1"],
            Product(Dtype::Tf32),
            Refused("`%rd1` has another type"),
        ),
        plant("matmul_f32", ["", mma, "$1,{%f1,$3,$4,$5},{$6,$7}"], F32, Refused("`%f1` has another type")),
        // Modifiers dropped or others.
        plant("matmul_bf16", ["", r"x4\.trans", "x4"], BF16, Values),
        plant("matmul_bf16_backward", ["", r"x4\.shared", "x4.trans.shared"], BF16, Values),
        plant("matmul_bf16", ["", r"bf16\.bf16", "f16.f16"], BF16, Values),
        plant("attention_64", ["", r"ex2\.approx", "ex2.exact"], Attention, Refused("unknown instruction `ex2.exact")),
        plant("layer_norm", ["", r"ld\.global\.f32", "ld.shared.f32"], Norm, Refused("has another type")),
        plant("layer_norm", ["shfl", r"bfly", "down"], Norm, Refused("unknown instruction `shfl.sync.down")),
        // An immediate that is off.
        plant("matmul_f32", ["", r"\],16,(%r\d+)", "],8,$1"], F32, Refused("copies of [16] bytes expected")),
        plant(
            "matmul_f32",
            ["", r"wait_group 2", "wait_group 3"],
            F32,
            Launch("before its asynchronous copy was waited for"),
        ),
        plant(
            "matmul_tf32",
            ["", r"ld.shared.u32 \t%r(\d+), \[%r(\d+)\+5120\]", "ld.shared.u32 \t%r$1, [%r$2+5376]"],
            Product(Dtype::Tf32),
            Launch("is read and was never written"),
        ),
        plant("matmul_f32", ["", r"param_5\+4\]", "param_5+8]"], F32, Values),
        plant("matmul_f32", ["", r"param_5\+24\]", "param_5+28]"], F32, Refused("bytes 28 to 32 of a parameter of 28")),
        plant("layer_norm", ["", r"mov.u32 \t(%r\d+), 16;", "mov.u32 \t$1, 8;"], Norm, Values),
        plant("layer_norm", ["", r"mov.u32 \t(%r\d+), 31;", "mov.u32 \t$1, 15;"], Norm, Values),
        plant(
            "matmul_f32",
            [r"[\s\S]*ex2\.approx", r"st.global.f32 \t\[(%rd\d+)\], ", "st.global.f32 \t[$1+4], "],
            F32,
            Values,
        ),
        // Bounds, barriers, copies, predicates.
        plant(
            "matmul_f32",
            [r"min.s32 \t%r\d+, %r\d+, 64;", r"min.s32 (\t%r\d+, %r\d+, 64;)", "max.s32 $1"],
            Filled,
            Launch("global address"),
        ),
        plant(
            "matmul_f32",
            [r"wait_group 2;[\s\S]*?wait_group 2;", r"setp.gt.s32 (\t%p\d+, %r\d+, \d+;)", "setp.ge.s32 $1"],
            Filled,
            Launch("global address"),
        ),
        plant("matmul_f32", ["", r"bar.sync \t0;", ""], F32, Launch("race")),
        plant("matmul_f32", ["bar.sync", r"bar.sync \t0;", ""], F32, Launch("race")),
        plant("attention_64", ["", r"bar.sync \t0;", ""], Attention, Launch("race")),
        plant("skew_tiles", ["", r"bar.sync \t0;", ""], Rotation, Launch("")),
        plant("matmul_f32", ["", r"cp.async.commit_group;", ""], F32, Launch("asynchronous copy")),
        plant("matmul_f32", ["bar.sync", r"@(%p\d+) bra", "@!$1 bra"], F32, Values),
        plant("layer_norm", ["", r"mov.u32 \t%r\d+, 31;", ""], Norm, Launch("never wrote")),
        plant("skew_tiles", ["", r"tile\[16640\]", "tile[16384]"], Rotation, Launch("")),
        // Files of another time.
        plant(
            "layer_norm",
            ["", r"(\.param \.align \d+ \.b8 layer_norm_param_1)\[\d+\]", "${1}[40]"],
            Norm,
            Refused("kernel layer_norm"),
        ),
        plant(
            "matmul_f32",
            ["", r"\.maxntid 128", ".maxntid 64"],
            F32,
            Launch("128 threads in a block, the text allows 64"),
        ),
        plant("matmul_f32", ["", r"\.entry matmul_f32\(", ".entry matmul_f64("], F32, Refused("kernel matmul_f32")),
    ]
}

/// The committed text that has the kernel, and the same with the fault.
fn planted(plant: &Plant) -> [String; 2] {
    let name = format!(".entry {}(", plant.kernel);
    let files = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/kernels/ptx")).unwrap();
    let texts = files.map(|file| std::fs::read_to_string(file.unwrap().path()).unwrap());
    let text = texts.into_iter().find(|text| text.contains(&name)).expect(plant.kernel);
    let start = text.find(&name).unwrap();
    let end = text[start + 1..].find(".entry ").map_or(text.len(), |next| start + 1 + next);
    let behind = start + Regex::new(plant.behind).unwrap().find(&text[start..end]).expect(plant.behind).end();
    let changed = Regex::new(plant.from).unwrap().replace(&text[behind..end], plant.to);
    let changed = [&text[..behind], &changed, &text[end..]].concat();
    assert!(changed != text, "{}: no `{}`", plant.kernel, plant.from);
    [text, changed]
}

/// What shows the fault, in words.
fn shown(plant: &Plant) -> String {
    let [text, changed] = planted(plant);
    ptx::edit(move |loaded| if loaded == text { changed.clone() } else { loaded.to_owned() });
    let dtype = if let Product(dtype) = plant.case { dtype } else { Dtype::F32 };
    let backend = match CudaBackend::new(0, dtype) {
        Ok(backend) => backend,
        Err(error) => return format!("refused: {}", ptx::last_fault().unwrap_or_else(|| error.to_string())),
    };
    match plant.case.run(&backend) {
        Ok(found) => {
            let expected = plant.case.run(&CpuBackend::new(Dtype::F32).unwrap()).unwrap();
            match std::panic::catch_unwind(|| compare("", &found, &expected, 2e-5)) {
                Ok(()) => "not at all".into(),
                Err(_) => "values".into(),
            }
        }
        Err(error) => format!("launch: {}", ptx::last_fault().unwrap_or_else(|| error.to_string())),
    }
}

#[test]
fn faults_in_the_text_are_caught() {
    let Some(emulator) = Emulator::alone() else { return };
    emulator.set(Setting::Interpret, 1);
    let mut wrong = Vec::new();
    for plant in &plants() {
        let shown = shown(plant);
        let (how, why) = match plant.caught {
            Refused(why) => ("refused", why),
            Launch(why) => ("launch", why),
            Values => ("values", ""),
        };
        if !(shown.starts_with(how) && shown.contains(why)) {
            wrong.push(format!("{}, `{}` -> `{}`: {shown}", plant.kernel, plant.from, plant.to));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
