//! Files that are cut, that lie, or that ask for what is not computed: one error each, naming the key or the tensor and the byte.

use crate::fixture;
use crate::memory;
use crate::support::load;
use crate::writer::{F32, Gguf, LIST, TEXT, U64, text, texts};
use actpatch::model::WeightProcessing;
use std::path::Path;

/// More than any of the fixtures needs at once, and less than what a lying count asks for.
const MOST_MEMORY: usize = 64 << 20;

/// More than all tests together need at any time, and less than what a small file can lead to that nothing bounds.
const MOST_MEMORY_TOGETHER: usize = 256 << 20;

/// Checks that nothing so far has asked for more.
#[track_caller]
fn check_memory() {
    let (largest, most) = (memory::largest(), memory::most_live());
    assert!(largest <= MOST_MEMORY, "{largest} bytes were asked for at once");
    assert!(most <= MOST_MEMORY_TOGETHER, "{most} bytes were in use together");
}

/// What is wrong with a file, and with which part of it.
fn complaint(folder: &Path, bytes: &[u8]) -> Option<String> {
    let path = folder.join("bad.gguf");
    // A new file: models of the old one may have it mapped.
    let _ = std::fs::remove_file(&path);
    std::fs::write(&path, bytes).unwrap();
    let message = load(&path, WeightProcessing::none()).err().map(|error| error.to_string());
    check_memory();
    message
}

/// Checks that a changed file is refused with all of `parts` in the message.
#[track_caller]
fn refused(name: &str, change: impl FnOnce(&mut Gguf), parts: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let mut gguf = Gguf::read(&fixture(name));
    change(&mut gguf);
    let message = complaint(folder.path(), &gguf.bytes().0).expect("must not load");
    for part in parts.iter().chain(&["bad.gguf: "]) {
        assert!(message.contains(part), "no {part:?} in: {message}");
    }
}

/// The same with bytes replaced behind the place of a key's value or of a tensor's description.
#[track_caller]
fn refused_bytes(at: &str, behind: usize, bytes: &[u8], parts: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let (mut file, places) = Gguf::read(&fixture("llama")).bytes();
    let start = places.iter().find(|(name, _)| name == at).map_or(0, |(_, place)| *place) + behind;
    file[start..start + bytes.len()].copy_from_slice(bytes);
    let message = complaint(folder.path(), &file).expect("must not load");
    for part in parts.iter().chain(&["bad.gguf: byte "]) {
        assert!(message.contains(part), "no {part:?} in: {message}");
    }
}

#[test]
fn a_file_that_is_written_again_is_the_same() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(complaint(folder.path(), &Gguf::read(&fixture("llama")).bytes().0), None);
}

#[test]
fn headers_that_lie() {
    let huge = (1u64 << 60).to_le_bytes();
    refused_bytes("", 0, b"GGML", &["header", "found \"GGML\""]);
    refused_bytes("", 4, &1u32.to_le_bytes(), &["byte 4: version: expected 2 or 3, found 1"]);
    refused_bytes("", 4, &4u32.to_le_bytes(), &["found 4"]);
    refused_bytes("", 4, &3u32.to_be_bytes(), &["version 3, big-endian"]);
    refused_bytes("", 8, &huge, &["byte 8: number of tensors", "1152921504606846976"]);
    refused_bytes("", 16, &huge, &["byte 16: number of keys"]);
    refused_bytes("", 24, &huge, &["byte 24: name of key 1 of", "at most 65535 bytes, found 1152921504606846976"]);
    refused_bytes("", 24, &u64::MAX.to_le_bytes(), &["name of key 1 of"]);
}

#[test]
fn values_that_lie() {
    let huge = (1u64 << 60).to_le_bytes();
    refused_bytes("general.name", 4, &huge, &["key `general.name`", "1152921504606846976 bytes"]);
    refused_bytes("general.name", 12, &[0xFF], &["key `general.name`", "UTF-8"]);
    refused_bytes("llama.block_count", 0, &77u32.to_le_bytes(), &["key `llama.block_count`", "found 77"]);
    refused_bytes("tokenizer.ggml.tokens", 4, &LIST.to_le_bytes(), &["key `tokenizer.ggml.tokens`", "found 9"]);
    refused_bytes("tokenizer.ggml.tokens", 4, &13u32.to_le_bytes(), &["key `tokenizer.ggml.tokens`", "found 13"]);
    refused_bytes("tokenizer.ggml.tokens", 8, &huge, &["key `tokenizer.ggml.tokens`", "has room"]);
    refused_bytes("tokenizer.ggml.tokens", 16, &huge, &["key `tokenizer.ggml.tokens`", "bytes"]);
    refused_bytes("tokenizer.ggml.token_type", 8, &huge, &["key `tokenizer.ggml.token_type`", "has room"]);
    refused("llama", |gguf| gguf.set("llama.block_count", F32, &f32::NAN.to_le_bytes()), &["`llama.block_count`"]);
    refused("llama", |gguf| gguf.keys.push(gguf.keys[0].clone()), &["byte ", "a second time"]);
    refused("llama", |gguf| gguf.number("general.alignment", 24), &["byte ", "`general.alignment`", "found 24"]);
    refused("llama", |gguf| gguf.number("general.alignment", 0), &["`general.alignment`", "found 0"]);
}

#[test]
fn tensors_that_lie() {
    let (start, huge) = (8 + "token_embd.weight".len(), (1u64 << 33).to_le_bytes());
    let tensor = |behind, bytes: &[u8], parts: &[&str]| {
        let parts = [parts, &["tensor `token_embd.weight`"]].concat();
        refused_bytes("token_embd.weight", start + behind, bytes, &parts);
    };
    tensor(0, &0u32.to_le_bytes(), &["1 to 4 dimensions, found 0"]);
    tensor(0, &u32::MAX.to_le_bytes(), &["dimensions, found 4294967295"]);
    tensor(4, &[huge, huge].concat(), &["product fits", "8589934592"]);
    tensor(4, &[u64::MAX.to_le_bytes(), huge].concat(), &["product fits"]);
    tensor(4, &[0; 8], &["above 0"]);
    tensor(20, &200u32.to_le_bytes(), &["type 200"]);
    tensor(20, &20u32.to_le_bytes(), &["IQ4_NL (20)", "Q4_K"]);
    tensor(24, &u64::MAX.to_le_bytes(), &["offset", "18446744073709551615"]);
    // Blocks of 256 values in rows of 32.
    tensor(20, &12u32.to_le_bytes(), &["whole blocks of 256 values (Q4_K)"]);
    let (last, shift) =
        ("output_norm.weight", |gguf: &mut Gguf| gguf.tensor("output_norm.weight").offset = Some(1 << 40));
    refused("llama", shift, &["byte ", last, "behind the tensor before it"]);
    // A larger tensor than there is left of the file.
    let larger = |gguf: &mut Gguf| {
        let last = gguf.tensors.last_mut().unwrap();
        last.sides = vec![1 << 30];
    };
    refused("llama", larger, &["byte ", "tensor `", "is it truncated?"]);
    let twice = |gguf: &mut Gguf| gguf.tensors.push(gguf.tensors[0].clone());
    refused("llama", twice, &["byte ", "a second time"]);
    let wide = |gguf: &mut Gguf| gguf.tensor("blk.0.ffn_up.weight").sides.swap(0, 1);
    refused("llama", wide, &["byte ", "tensor `blk.0.ffn_up.weight`: expected shape [44, 32], found [32, 44]"]);
}

#[test]
fn what_is_not_computed_is_named() {
    let key = |name: &'static str| format!("key `{name}`");
    let number = |key_: &'static str, value| refused("llama", |gguf| gguf.number(key_, value), &[&key(key_), "byte "]);
    number("llama.expert_count", 8);
    number("llama.attention.sliding_window", 4);
    number("llama.rope.dimension_count", 4);
    number("llama.attention.value_length", 4);
    number("llama.attention.head_count_kv", 3);
    number("llama.attention.head_count", 0);
    number("llama.rope.scaling.factor", 0);
    number("llama.rope.scaling.attn_factor", 2);
    number("llama.vocab_size", 49);
    number("llama.something.new", 0);
    number("tokenizer.ggml.bos_token_id", 48);
    number("tokenizer.ggml.eos_token_id", 48);
    number("tokenizer.ggml.unknown_token_id", 48);
    let words = |key_: &'static str, value: &'static str| {
        refused("llama", |gguf| gguf.text(key_, value), &[&key(key_), "byte ", value]);
    };
    words("general.architecture", "mamba");
    words("general.architecture", "stablelm");
    words("general.type", "mmproj");
    words("llama.rope.scaling.type", "longrope");
    words("tokenizer.ggml.model", "bert");
    words("tokenizer.ggml.pre", "viking");
    let flag = |key_: &'static str, value| refused("llama", |gguf| gguf.flag(key_, value), &[&key(key_), "byte "]);
    flag("tokenizer.ggml.add_eos_token", true);
    flag("tokenizer.ggml.add_space_prefix", true);
    flag("llama.attention.causal", false);
    flag("llama.use_parallel_residual", true);
    refused("llama", |gguf| gguf.text("llama.block_count", "2"), &["`llama.block_count`", "\"2\""]);
    for missing in ["general.architecture", "llama.block_count", "llama.attention.layer_norm_rms_epsilon"] {
        refused("llama", |gguf| gguf.remove(missing), &[missing, "found nothing"]);
    }
    for missing in ["tokenizer.ggml.model", "tokenizer.ggml.tokens", "tokenizer.ggml.merges"] {
        refused("llama", |gguf| gguf.remove(missing), &[missing, "found nothing"]);
    }
    refused("llama", |gguf| gguf.number("llama.block_count", 3), &["tensor `blk.2.", "nothing of that name"]);
    refused("llama", |gguf| gguf.number("llama.block_count", 1), &["byte ", "tensor `blk.1."]);
    refused("llama", |gguf| gguf.add("blk.0.attn_sinks", &[0.0; 8]), &["byte ", "tensor `blk.0.attn_sinks`"]);
}

#[test]
fn rotated_dimensions_lie_within_a_head() {
    let key = "gptneox.rope.dimension_count";
    for wrong in [0, 17, 1 << 53, u64::MAX] {
        let set = |gguf: &mut Gguf| gguf.set(key, U64, &wrong.to_le_bytes());
        refused("gptneox-parallel", set, &["byte ", key, "expected 1 to 16", &wrong.to_string()]);
    }
    let set = |gguf: &mut Gguf| gguf.set("llama.rope.dimension_count", U64, &u64::MAX.to_le_bytes());
    refused("llama", set, &["byte ", "`llama.rope.dimension_count`: expected 8, a whole head"]);
    // Two of GPT-2's: the same one is always named.
    let two = |gguf: &mut Gguf| {
        ["gpt2.rope.scaling.factor", "gpt2.rope.freq_base"].iter().for_each(|key| gguf.number(key, 1));
    };
    for _ in 0..8 {
        refused("gpt2", two, &["byte ", "key `gpt2.rope.freq_base`"]);
    }
    let divisors = |count: usize| move |gguf: &mut Gguf| gguf.add("rope_freqs.weight", &vec![1.0; count]);
    refused("gpt2", divisors(4), &["byte ", "tensor `rope_freqs.weight`", "not computed with"]);
    refused("gptneox-parallel", divisors(8), &["byte ", "tensor `rope_freqs.weight`: expected shape [2]"]);
    refused("llama", divisors(8), &["byte ", "tensor `rope_freqs.weight`: expected shape [4]"]);
}

#[test]
fn quantised_tensors_of_another_version() {
    let key = "general.quantization_version";
    let version = |number| move |gguf: &mut Gguf| gguf.number(key, number);
    refused("type-q4_0", version(1), &["byte ", "key `general.quantization_version`: expected 2", "found 1"]);
    let folder = tempfile::tempdir().unwrap();
    for (name, number) in [("type-q4_0", 2), ("type-f16", 1)] {
        let mut gguf = Gguf::read(&fixture(name));
        version(number)(&mut gguf);
        assert_eq!(complaint(folder.path(), &gguf.bytes().0), None, "{name}");
    }
}

#[test]
fn names_and_values_of_any_length_and_of_any_letters() {
    let folder = tempfile::tempdir().unwrap();
    let message = |change: &dyn Fn(&mut Gguf)| {
        let mut gguf = Gguf::read(&fixture("llama"));
        change(&mut gguf);
        let message = complaint(folder.path(), &gguf.bytes().0).expect("must not load");
        assert!(message.len() < folder.path().as_os_str().len() + 600 && !message.contains('\u{1b}'), "{message}");
        message
    };
    let long = "\u{1b}[31m".repeat(20_000);
    let found = message(&|gguf| gguf.number(&format!("llama.{}", &long[..60_000]), 1));
    assert!(found.contains("key `llama.\\u{1b}[31m") && found.contains('…'), "{found}");
    let found = message(&|gguf| gguf.number(&"k".repeat(65_536), 1));
    assert!(found.contains("name of key ") && found.contains("at most 65535 bytes, found 65536"), "{found}");
    let found = message(&|gguf| gguf.add(&"t".repeat(65), &[0.0]));
    assert!(found.contains("name of tensor ") && found.contains("at most 64 bytes, found 65"), "{found}");
    let found = message(&|gguf| gguf.add("\u{1b}[31m", &[0.0]));
    assert!(found.contains("tensor `\\u{1b}[31m`"), "{found}");
    for key in
        ["general.type", "general.architecture", "llama.block_count", "tokenizer.ggml.model", "tokenizer.ggml.pre"]
    {
        let found = message(&|gguf| gguf.text(key, &long));
        assert!(found.contains(key) && found.ends_with('…'), "{found}");
    }
    let found = message(&|gguf| gguf.set("tokenizer.ggml.merges", LIST, &texts(&[&long])));
    assert!(found.contains("key `tokenizer.ggml.merges`") && found.contains("pair 0: \"\\u{1b}[31m"), "{found}");
}

#[test]
fn tokenizers_that_do_not_fit() {
    let tokens = "tokenizer.ggml.tokens";
    let few = |gguf: &mut Gguf| {
        gguf.set(tokens, LIST, &texts(&["a", "b"]));
        gguf.remove("tokenizer.ggml.token_type");
    };
    refused("llama", few, &["byte ", "`tokenizer.ggml.tokens`: expected 48 tokens", "found 2"]);
    refused("llama", |gguf| gguf.set(tokens, LIST, &texts(&["a", "b"])), &["tokenizer.ggml.token_type"]);
    let long = "a".repeat(2000);
    refused("llama", |gguf| gguf.set(tokens, LIST, &texts(&[&long])), &["byte ", tokens, "2000 bytes"]);
    let merges =
        |list: &'static [&'static str]| move |gguf: &mut Gguf| gguf.set("tokenizer.ggml.merges", LIST, &texts(list));
    refused("llama", merges(&["! !", "a b c"]), &["byte ", "`tokenizer.ggml.merges`", "pair 1: \"a b c\""]);
    for (pair, unknown) in [("A nothing", "nothing"), ("nothing A", "nothing"), ("A B", "AB")] {
        let set = |gguf: &mut Gguf| gguf.set("tokenizer.ggml.merges", LIST, &texts(&[pair]));
        refused("llama", set, &["byte ", "key `tokenizer.ggml.merges`", &format!("pair 0: \"{unknown}\"")]);
    }
    let spaces = " ".repeat(8 << 20);
    refused("llama", |gguf| gguf.set("tokenizer.ggml.merges", LIST, &texts(&[&spaces])), &["`tokenizer.ggml.merges`"]);
    refused("llama", |gguf| gguf.rename_token("C", "B"), &["byte ", tokens, "every token once, found 34 and 35 alike"]);
    refused("tokens-llama", |gguf| gguf.rename_token("<0x41>", "<0x40>"), &["byte ", tokens, "every token once"]);
    // A letter whose bytes are spelled so.
    let spelled = |gguf: &mut Gguf| {
        gguf.rename_token("C", "日");
        gguf.rename_token("D", "æĹ¥");
    };
    refused("llama", spelled, &["byte ", tokens, "every token once, found 35 and 36 alike"]);
    let opening = |gguf: &mut Gguf| {
        gguf.flag("tokenizer.ggml.add_bos_token", true);
        gguf.remove("tokenizer.ggml.bos_token_id");
    };
    refused("llama", opening, &["key `tokenizer.ggml.bos_token_id`", "`tokenizer.ggml.add_bos_token` asks for"]);
    refused("llama", |gguf| gguf.set(tokens, TEXT, &text("a")), &["byte ", tokens, "a list of texts"]);
    refused("tokens-llama", |gguf| gguf.remove("tokenizer.ggml.scores"), &["tokenizer.ggml.scores"]);
}

#[test]
fn tokens_that_can_be_put_together_in_very_many_ways() {
    // Of letters alone: each token of n letters in n - 1 ways.
    let longer = |gguf: &mut Gguf| {
        let tokens: Vec<String> = (1..=460).map(|length| "a".repeat(length)).collect();
        let tokens: Vec<&str> = tokens.iter().map(String::as_str).collect();
        gguf.set("tokenizer.ggml.tokens", LIST, &texts(&tokens));
    };
    let expected = "`tokenizer.ggml.tokens`: expected at most 7360 ways to put one of 460 tokens together";
    refused("tokens-llama", longer, &["byte ", expected]);
}

#[test]
fn a_file_that_ends_anywhere_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["llama", "tokens-llama"] {
        let bytes = std::fs::read(fixture(name)).unwrap();
        for length in (0..bytes.len()).step_by(97).chain([bytes.len() - 33]) {
            let message = complaint(folder.path(), &bytes[..length]).expect("must not load");
            assert!(message.contains("bad.gguf: byte "), "{length} bytes: {message}");
            assert!(
                message.contains("to the end of the file") || message.contains("truncated") || message.contains("room"),
                "{message}"
            );
        }
    }
}
