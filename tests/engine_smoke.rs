use actpatch::backend::{CpuBackend, Dtype};
use actpatch::datasets::{BuildOptions, Catalogue};
use actpatch::engine::*;
use actpatch::model::{LoadOptions, Model};

#[test]
fn smoke() {
    for name in ["random:gpt2-small", "random:pythia-160m"] {
        let t = std::time::Instant::now();
        let model = Model::load(
            name,
            &LoadOptions {
                tokenizer: Some("../shared/data/tokenizers/gpt2/tokenizer.json".into()),
                ..Default::default()
            },
        )
        .unwrap();
        let prompts =
            Catalogue::load(None).unwrap().build("simple_train", &model.tokenizer, &BuildOptions::default()).unwrap();
        println!("{name} load {:?}", t.elapsed());
        let engine = Engine::new(CpuBackend::new(Dtype::F32).unwrap(), model).unwrap();
        println!("upload {:?}", t.elapsed());
        for _ in 0..3 {
            let t = std::time::Instant::now();
            let paired = PairedRun::new(&engine, prompts.clone(), &[0, 3, 6], &[PatchPositions::All], false).unwrap();
            println!("paired {:?} {} prompts", t.elapsed(), paired.n_prompts());
        }
    }
}
