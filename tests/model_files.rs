//! Model folders: every layout that is read, and every complaint about those that are not.

mod support;

use actpatch::model::{LoadOptions, Model, ModelError, Source, WeightProcessing};
use actpatch::types::{Activation, Positions, RotaryScaling};
use serde_json::{Value, json};
use std::path::Path;
use support::{Copy, Stored, fixture, load, offline, read_tensors, warnings};

/// Equal in every value that a model gives out.
fn assert_same(left: &Model, right: &Model) {
    let tokens: Vec<u32> = (0..left.config.d_vocab as u32).collect();
    assert_eq!(left.config, right.config);
    for layer in 0..left.config.n_layers {
        assert_eq!(left.layer(layer).unwrap(), right.layer(layer).unwrap(), "layer {layer}");
    }
    assert_eq!(left.embed(&tokens).unwrap(), right.embed(&tokens).unwrap());
    assert_eq!(left.position_embedding().unwrap(), right.position_embedding().unwrap());
    assert_eq!(left.unembed_columns(&tokens).unwrap(), right.unembed_columns(&tokens).unwrap());
    assert_eq!(left.final_norm().unwrap(), right.final_norm().unwrap());
}

fn fixtures() -> [(&'static str, Model); 2] {
    ["gpt2-tiny", "neox-tiny"].map(|name| (name, load(&fixture(name), WeightProcessing::none()).unwrap()))
}

#[test]
fn prefix_or_not() {
    for (name, original) in fixtures() {
        let copy = Copy::of(name);
        copy.tensors(|tensors| {
            let renamed = std::mem::take(tensors).into_iter().map(|(name, tensor)| {
                let bare = name.strip_prefix("transformer.").or(name.strip_prefix("gpt_neox."));
                (bare.map_or(name.clone(), str::to_owned), tensor)
            });
            tensors.extend(renamed);
        });
        assert_same(&copy.load().unwrap(), &original);
    }
}

/// Renames every tensor.
fn rename(copy: &Copy, name: impl Fn(&str) -> String) {
    copy.tensors(|tensors| {
        *tensors = std::mem::take(tensors).into_iter().map(|(old, tensor)| (name(&old), tensor)).collect();
    });
}

#[test]
fn names_that_stand_in_front_of_all_tensors() {
    for (name, original) in fixtures() {
        let family = if name.starts_with("gpt2") { "transformer." } else { "gpt_neox." };
        for front in ["_orig_mod.", "module.", "module._orig_mod.", family] {
            let copy = Copy::of(name);
            rename(&copy, |old| format!("{front}{old}"));
            assert_same(&copy.load().unwrap(), &original);
        }
        let copy = Copy::of(name);
        rename(&copy, |old| format!("module.{}", old.strip_prefix(family).unwrap_or(old)));
        assert_same(&copy.load().unwrap(), &original);
        // Two models, of which none has the family's own names.
        copy.tensors(|tensors| {
            let second = tensors.iter().map(|(old, tensor)| (format!("teacher.{old}"), tensor.clone()));
            let second: Vec<_> = second.collect();
            tensors.extend(second);
        });
        let message = copy.complaint();
        assert!(message.contains("holds several models") && message.contains("module., teacher.module."), "{message}");
    }
}

#[test]
fn quantised_checkpoints_are_named_with_the_way_out() {
    let name = "transformer.h.1.mlp.c_fc.weight";
    let copies = [Copy::of("gpt2-tiny"), Copy::of("gpt2-tiny"), Copy::of("gpt2-tiny")];
    let method = json!({ "quant_method": "bitsandbytes", "load_in_4bit": true });
    copies[0].config("quantization_config", method);
    copies[1].tensors(|tensors| {
        let packed = Stored { dtype: safetensors::Dtype::U8, shape: vec![630, 1], bytes: vec![0; 630] };
        tensors.insert(name.to_owned(), packed);
    });
    copies[2].tensors(|tensors| {
        let packed = tensors.remove(name).unwrap();
        tensors.insert("transformer.h.1.mlp.c_fc.qweight".to_owned(), packed);
    });
    for (copy, what) in copies.iter().zip(["field `quantization_config`, method \"bitsandbytes\"", name, "qweight"]) {
        let message = copy.complaint();
        assert!(message.contains(what) && message.contains("dequantize()"), "{message}");
    }
}

#[test]
fn blocks_in_the_file_and_in_the_configuration() {
    for (name, field) in [("gpt2-tiny", "n_layer"), ("neox-tiny", "num_hidden_layers")] {
        let copy = Copy::of(name);
        let message = copy.config(field, json!(3)).complaint();
        assert!(message.contains(&format!("config.json: field `{field}`: expected at most 2")), "{message}");
        assert!(message.ends_with("found 3"), "{message}");
        // As in transformers a part of the model runs, but not without a word.
        copy.config(field, json!(1));
        let (model, warnings) = warnings(|| copy.load().unwrap());
        assert_eq!(model.config.n_layers, 1);
        assert!(warnings.contains(&format!("field `{field}`: 1, but")) && warnings.contains("2 blocks"), "{warnings}");
        copy.config(field, json!(2));
        assert_eq!(support::warnings(|| copy.load().unwrap()).1, "");
    }
}

#[test]
fn f32_and_halves_give_the_same_values() {
    for (name, original) in fixtures() {
        let copy = Copy::of(name);
        copy.tensors(|tensors| tensors.values_mut().for_each(|tensor| *tensor = tensor.doubled()));
        assert_same(&copy.load().unwrap(), &original);
        let copy = Copy::of(name);
        copy.tensors(|tensors| tensors.values_mut().for_each(|tensor| *tensor = tensor.widened()));
        assert_same(&copy.load().unwrap(), &original);
        // The format does not promise that tensors are aligned: one space more in the header moves them all by a byte.
        let path = copy.file("model.safetensors");
        let mut bytes = std::fs::read(&path).unwrap();
        let header = u64::from_le_bytes(bytes[..8].try_into().unwrap());
        bytes.insert(8 + header as usize, b' ');
        bytes[..8].copy_from_slice(&(header + 1).to_le_bytes());
        std::fs::write(&path, bytes).unwrap();
        assert_same(&copy.load().unwrap(), &original);
    }
}

#[test]
fn shards() {
    for (name, original) in fixtures() {
        let copy = Copy::of(name);
        let model = copy.shard().load().unwrap();
        assert_same(&model, &original);
        let files: Vec<&str> = model.provenance.files.iter().map(|file| file.name.as_str()).collect();
        assert_eq!(files, ["config.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]);
    }
}

#[test]
fn heads_of_their_own_and_shared_ones() {
    let copy = Copy::of("gpt2-tiny");
    copy.config("tie_word_embeddings", json!(false));
    assert!(copy.complaint().contains("`lm_head.weight` of shape [111, 60] is missing"));
    copy.tensors(|tensors| {
        let position = tensors["transformer.wte.weight"].clone();
        let reversed =
            Stored { bytes: position.bytes.as_chunks::<2>().0.iter().rev().flatten().copied().collect(), ..position };
        tensors.insert("lm_head.weight".into(), reversed);
    });
    let model = copy.load().unwrap();
    let (embed, mut unembed) = (model.embed(&[0]).unwrap(), model.unembed_columns(&[110]).unwrap().0);
    unembed.data.reverse();
    assert_eq!(embed, unembed);

    let copy = Copy::of("neox-tiny");
    copy.config("tie_word_embeddings", json!(true)).tensors(|tensors| drop(tensors.remove("embed_out.weight")));
    let model = copy.load().unwrap();
    assert_eq!(model.embed(&[5]).unwrap(), model.unembed_columns(&[5]).unwrap().0);

    for (name, flag, head, embedding) in [
        ("gpt2-tiny", Value::Null, "lm_head.weight", "transformer.wte.weight"),
        ("neox-tiny", json!(true), "embed_out.weight", "gpt_neox.embed_in.weight"),
        ("../engine/qwen2-tiny", json!(true), "lm_head.weight", "model.embed_tokens.weight"),
    ] {
        let tied = Copy::of(name);
        tied.config("tie_word_embeddings", flag).tensors(|tensors| drop(tensors.remove(head)));
        let original = tied.load().unwrap();
        // Under the head's name alone, as `safetensors.torch.save_model` keeps it.
        tied.tensors(|tensors| {
            let embedding = tensors.remove(embedding).unwrap();
            tensors.insert(head.to_owned(), embedding);
        });
        assert_same(&tied.load().unwrap(), &original);
        // Under both.
        tied.tensors(|tensors| {
            let both = tensors[head].clone();
            tensors.insert(embedding.to_owned(), both);
        });
        let (model, said) = warnings(|| tied.load().unwrap());
        assert_same(&model, &original);
        assert_eq!(said, "");
        // Two that differ: both are used, and somebody is told.
        tied.tensors(|tensors| {
            let other = tensors[head].bytes.as_chunks::<2>().0.iter().rev().flatten().copied().collect();
            tensors.get_mut(head).unwrap().bytes = other;
        });
        let (model, said) = warnings(|| tied.load().unwrap());
        assert_eq!(model.embed(&[3]).unwrap(), original.embed(&[3]).unwrap());
        let last = model.config.d_vocab as u32 - 1;
        let mut head = model.unembed_columns(&[last]).unwrap().0;
        head.data.reverse();
        assert_eq!(head, original.embed(&[0]).unwrap());
        assert!(said.contains("`tie_word_embeddings`") && said.contains("both are used"), "{said}");
    }

    // The newer name of the same tensor.
    let copy = Copy::of("neox-tiny");
    copy.tensors(|tensors| {
        let head = tensors.remove("embed_out.weight").unwrap();
        tensors.insert("lm_head.weight".into(), head);
    });
    assert_same(&copy.load().unwrap(), &fixtures()[1].1);
}

#[test]
fn attention_without_biases() {
    let copy = Copy::of("neox-tiny");
    copy.config("attention_bias", json!(false));
    copy.tensors(|tensors| tensors.retain(|name, _| !(name.contains("attention.") && name.ends_with("bias"))));
    let layer = copy.load().unwrap().layer(1).unwrap();
    assert_eq!(layer.query.bias, vec![0.0; 60]);
    assert_eq!(layer.key_value.bias, vec![0.0; 120]);
    assert_eq!(layer.attn_out.bias, vec![0.0; 60]);
}

#[test]
fn damaged_weights_are_named() {
    let name = "transformer.h.1.mlp.c_fc.weight";
    let copy = Copy::of("gpt2-tiny");
    copy.tensors(|tensors| drop(tensors.remove(name)));
    let message = copy.complaint();
    assert!(message.contains("`h.1.mlp.c_fc.weight` of shape [60, 21] is missing"), "{message}");
    assert!(message.contains("model.safetensors"), "{message}");

    let copy = Copy::of("gpt2-tiny");
    copy.tensors(|tensors| tensors.get_mut(name).unwrap().shape = vec![21, 60]);
    let message = copy.complaint();
    assert!(message.contains(&format!("`{name}`: expected shape [60, 21]")), "{message}");
    assert!(message.contains("found [21, 60]"), "{message}");

    let copy = Copy::of("gpt2-tiny");
    copy.tensors(|tensors| tensors.get_mut(name).unwrap().dtype = safetensors::Dtype::I16);
    let message = copy.complaint();
    assert!(message.contains(name) && message.contains("F64, F32, F16 or BF16, found I16"), "{message}");

    let copy = Copy::of("gpt2-tiny");
    let path = copy.file("model.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    for (length, part) in [(bytes.len() - 7, "truncated"), (100, "truncated"), (5, "not a whole"), (0, "not a whole")] {
        std::fs::write(&path, &bytes[..length]).unwrap();
        let message = copy.complaint();
        assert!(message.contains(part) && message.contains(&length.to_string()), "{length}: {message}");
    }
    let mut longer = bytes.clone();
    longer.push(0);
    std::fs::write(&path, longer).unwrap();
    assert!(copy.complaint().contains("not a whole"));
    std::fs::write(&path, b"\x10\0\0\0\0\0\0\0 a web page, no model").unwrap();
    assert!(copy.complaint().contains("invalid JSON"));
}

#[test]
fn missing_files_are_named() {
    let copy = Copy::of("gpt2-tiny");
    for (file, part) in [
        ("model.safetensors", "tokenizer.json and model"),
        ("tokenizer.json", "tokenizer"),
        ("config.json", "holds config.json"),
    ] {
        std::fs::remove_file(copy.file(file)).unwrap();
        let message = copy.complaint();
        assert!(message.contains(&format!("{file}: missing")) && message.contains(part), "{message}");
    }
    let copy = Copy::of("gpt2-tiny");
    std::fs::rename(copy.file("model.safetensors"), copy.file("pytorch_model.bin")).unwrap();
    let message = copy.complaint();
    assert!(message.contains("pytorch_model.bin only") && message.contains("safe_serialization=True"), "{message}");

    let copy = Copy::of("gpt2-tiny");
    copy.shard();
    std::fs::remove_file(copy.file("model-00002-of-00002.safetensors")).unwrap();
    let message = copy.complaint();
    assert!(
        message.contains("model-00002-of-00002.safetensors: missing") && message.contains("index.json"),
        "{message}"
    );
    let index = copy.file("model.safetensors.index.json");
    for (text, part) in [
        (json!({ "weight_map": { "a": "../b.safetensors" } }), "`weight_map.a`"),
        (json!({ "weight_map": { "a": 3 } }), "`weight_map.a`"),
        (json!({}), "`weight_map`"),
    ] {
        std::fs::write(&index, text.to_string()).unwrap();
        let message = copy.complaint();
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn configurations_that_cannot_be_honoured_are_refused() {
    let gpt2 = [
        ("model_type", json!("gemma"), "`gemma` is not a supported architecture (supported: gpt2, gpt_neox, llama"),
        ("model_type", Value::Null, "nothing is not a supported"),
        ("n_layer", json!(0), "field `n_layer`: expected a whole number from 1"),
        ("n_layer", json!(1_000_000), "at most 4096 layers"),
        ("n_embd", Value::Null, "`transformer.wte.weight`: expected shape [111, 768] by config.json, found [111, 60]"),
        ("n_embd", json!("60"), "field `n_embd`: expected a whole number from 1 to 268435456, found \"60\""),
        ("n_embd", json!(1u64 << 60), "field `n_embd`"),
        ("n_head", json!(7), "field `n_head`: expected a divisor of n_embd = 60, found 7"),
        ("vocab_size", json!("many"), "found \"many\""),
        ("layer_norm_epsilon", json!(-1), "field `layer_norm_epsilon`"),
        ("activation_function", json!("swiglu"), "found \"swiglu\""),
        ("scale_attn_by_inverse_layer_idx", json!("yes"), "true or false"),
        ("add_cross_attention", json!(true), "expected false"),
        ("tie_word_embeddings", json!("no"), "true or false"),
        ("bos_token_id", json!("x"), "a token id"),
        ("eos_token_id", json!([0, "x"]), "a token id or a list of them"),
    ];
    let neox = [
        ("rope_parameters", json!({ "partial_rotary_factor": "a" }), "field `rope_parameters.partial_rotary_factor`"),
        ("rope_parameters", json!({ "partial_rotary_factor": 0.04 }), "which is 0 dimensions"),
        ("rope_parameters", json!({ "partial_rotary_factor": 1.2 }), "from 2 to 20"),
        (
            "rope_parameters",
            json!({ "rope_type": "yarn", "partial_rotary_factor": 0.5 }),
            "field `rope_parameters.factor`: expected a number above 0, found nothing",
        ),
        ("rope_parameters", json!({ "rope_type": null }), "field `rope_parameters.rope_type`"),
        ("rope_parameters", json!({ "full_attention": {} }), "field `rope_parameters.full_attention`"),
        ("rope_scaling", json!("linear"), "field `rope_scaling`: expected an object"),
        ("rope_scaling", json!({ "type": "su", "factor": 2 }), "field `rope_scaling.type`: expected default, linear"),
        ("rope_scaling", json!({ "type": "linear" }), "field `rope_scaling.factor`: expected a number above 0"),
        ("use_parallel_residual", json!(3), "true or false"),
        ("hidden_size", json!(61), "a divisor of hidden_size = 61"),
    ];
    for (fixture, cases) in [("gpt2-tiny", gpt2.as_slice()), ("neox-tiny", neox.as_slice())] {
        for (field, value, part) in cases {
            let copy = Copy::of(fixture);
            let message = copy.config(field, value.clone()).load().err().map_or_else(String::new, |e| e.to_string());
            assert!(message.contains(part), "{field} = {value}: {message:?}");
        }
    }
    let copy = Copy::of("gpt2-tiny");
    std::fs::write(copy.file("config.json"), "{").unwrap();
    assert!(copy.complaint().contains("not a JSON object"));
}

#[test]
fn old_and_new_field_names() {
    let rotary = |fields: &[(&str, Value)]| {
        let copy = Copy::of("neox-tiny");
        copy.config("rope_parameters", Value::Null);
        for (field, value) in fields {
            copy.config(field, value.clone());
        }
        copy.load().unwrap().config
    };
    let dims = |dims, base| Positions::Rotary { dims, base, scaling: RotaryScaling::None };
    let old = rotary(&[("rotary_pct", json!(0.5)), ("rotary_emb_base", json!(20_000))]);
    assert_eq!(old.positions, dims(10, 20_000.0));
    // Names of other families, which transformers does not read here.
    let others = rotary(&[("partial_rotary_factor", json!(0.4)), ("rope_theta", json!(500.0))]);
    assert_eq!(others.positions, rotary(&[]).positions);
    let newest = rotary(&[("rope_parameters", json!({ "rope_theta": 7.0, "partial_rotary_factor": 1.0 }))]);
    assert_eq!(newest.positions, dims(20, 7.0));
    for (name, activation) in [
        ("gelu", Activation::Gelu),
        ("gelu_new", Activation::GeluTanh),
        ("gelu_fast", Activation::GeluTanh),
        ("gelu_pytorch_tanh", Activation::GeluTanh),
        ("relu", Activation::Relu),
        ("silu", Activation::Silu),
    ] {
        assert_eq!(rotary(&[("rotary_pct", json!(0.3)), ("hidden_act", json!(name))]).activation, activation);
    }
}

/// transformers takes settings of a scaling without a name for none, and so do we; whoever wrote them is told.
#[test]
fn settings_of_a_scaling_without_a_name_are_told_of() {
    let copy = Copy::of("neox-tiny");
    let plain = copy.load().unwrap().config.positions;
    let config = std::fs::read(copy.file("config.json")).unwrap();
    let mut object = serde_json::from_slice::<Value>(&config).unwrap()["rope_parameters"].clone();
    object.as_object_mut().unwrap().remove("rope_type");
    for (field, value) in [("factor", json!(4.0)), ("low_freq_factor", json!(1.0)), ("short_factor", json!([1.0]))] {
        object[field] = value;
    }
    copy.config("rope_parameters", object);
    let (model, told) = warnings(|| copy.load().unwrap());
    assert_eq!(model.config.positions, plain);
    for field in ["factor", "low_freq_factor", "short_factor"] {
        assert!(told.contains(&format!("rope_parameters.{field}")) && told.contains("no `rope_type`"), "{told}");
    }
}

#[test]
fn what_a_model_cannot_be_asked_for() {
    let model = load(&fixture("gpt2-tiny"), WeightProcessing::processed()).unwrap();
    assert!(matches!(model.embed(&[3, 111]), Err(ModelError::TokenOutOfRange { token: 111, d_vocab: 111, .. })));
    assert!(matches!(model.unembed_columns(&[u32::MAX]), Err(ModelError::TokenOutOfRange { .. })));
    assert!(matches!(model.layer(2), Err(ModelError::LayerOutOfRange { layer: 2, n_layers: 2, .. })));
    assert_eq!(model.embed(&[]).unwrap().rows, 0);
}

#[test]
fn tokenizers() {
    let copy = Copy::of("gpt2-tiny");
    let model = copy.load().unwrap();
    assert_eq!((model.tokenizer.bos(), model.tokenizer.ends()), (Some(0), &[0][..]));
    assert_eq!(model.tokenizer.encode(" good bad").unwrap().len(), 2);
    assert_eq!(model.tokenizer.decode(&model.tokenizer.encode("It was\n good").unwrap()).unwrap(), "It was\n good");
    // Without an id in config.json, tokenizer_config.json names the token, else its usual name does.
    copy.config("bos_token_id", Value::Null).config("eos_token_id", json!([3, 0]));
    let tokenizer = copy.load().unwrap().tokenizer;
    assert_eq!((tokenizer.bos(), tokenizer.ends()), (Some(0), &[3, 0][..]));
    copy.config("eos_token_id", Value::Null);
    assert_eq!(copy.load().unwrap().tokenizer.ends(), [0]);
    let good = model.tokenizer.id("Ġgood");
    for name in [json!("Ġgood"), json!({ "content": "Ġgood" })] {
        let text = json!({ "bos_token": name, "eos_token": name });
        std::fs::write(copy.file("tokenizer_config.json"), text.to_string()).unwrap();
        let tokenizer = copy.load().unwrap().tokenizer;
        assert_eq!((tokenizer.bos(), tokenizer.ends().first().copied()), (good, good));
    }
    std::fs::write(copy.file("tokenizer.json"), "{}").unwrap();
    assert!(copy.complaint().contains("tokenizer.json"));
    let other = fixture("neox-tiny").join("tokenizer.json");
    let options = LoadOptions { tokenizer: Some(other.display().to_string()), ..LoadOptions::default() };
    let model = Model::load_from(copy.path().to_str().unwrap(), &options, &offline(copy.path())).unwrap();
    assert_eq!(model.tokenizer.path(), other);
}

#[test]
fn demo_and_random_models() {
    let here = Path::new("nowhere");
    let demo = Model::load_from("demo", &LoadOptions::default(), &offline(here)).unwrap();
    assert_eq!((demo.name.as_str(), &demo.provenance.source), ("demo", &Source::Embedded));
    demo.layer(0).unwrap();
    demo.unembedding().unwrap();
    let random = |seed| {
        let options = LoadOptions { seed, ..LoadOptions::default() };
        Model::load_from("random:pythia-70m", &options, &offline(here)).unwrap()
    };
    let (model, again, other) = (random(1), random(1), random(2));
    assert_eq!(model.name, "random-pythia-70m");
    assert_eq!(model.layer(3).unwrap(), again.layer(3).unwrap());
    assert_ne!(model.layer(3).unwrap(), other.layer(3).unwrap());
    assert_eq!(model.unembed_columns(&[50_303]).unwrap(), again.unembed_columns(&[50_303]).unwrap());
    let tokens = model.tokenizer.encode("a").unwrap();
    assert_eq!(model.embed(&tokens).unwrap().cols, 512);
    assert_eq!(demo.tokenizer.bos(), model.tokenizer.bos());
    let text = serde_json::to_string(&model.provenance).unwrap();
    assert!(text.contains("\"kind\":\"random\"") && text.contains("\"seed\":1"), "{text}");
}

#[test]
fn provenance_of_a_folder() {
    let model = load(&fixture("gpt2-tiny"), WeightProcessing::none()).unwrap();
    assert_eq!(model.name, "gpt2-tiny");
    let weights = &model.provenance.files[1];
    assert_eq!((weights.name.as_str(), weights.sha256.as_ref().map(String::len)), ("model.safetensors", Some(64)));
    assert_eq!(weights.bytes, std::fs::metadata(fixture("gpt2-tiny").join("model.safetensors")).unwrap().len());
    assert_eq!(model.provenance.tokenizer.as_ref().unwrap().name, "tokenizer.json");
}

#[test]
fn models_can_be_shared_between_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<Model>();
}

#[test]
fn fixtures_hold_the_types_they_claim() {
    let dtype = |name: &str| read_tensors(&fixture(name).join("model.safetensors")).values().next().unwrap().dtype;
    assert_eq!(dtype("gpt2-tiny"), safetensors::Dtype::BF16);
    assert_eq!(dtype("neox-tiny"), safetensors::Dtype::F16);
}
