//! The journeys: what is run, in which order, in a fresh folder each.
//!
//! They follow the README and the examples of the help texts; where those name a real model, the demo model takes its
//! place, with layers, heads and nodes that it has. DAS gets few epochs, and texts are short.

use std::path::Path;

/// Files that lie in the folder before the first command: names and contents.
pub type Files = Vec<(String, Vec<u8>)>;

/// Commands that are run one after another in one folder.
pub struct Journey {
    /// Its name in the pins.
    pub name: &'static str,
    /// Files of one's own; the analyses of `data/experiments/` are always there.
    pub setup: fn() -> Files,
    /// Command lines without the program's name.
    pub lines: &'static [&'static str],
    /// Does it multiply in bfloat16? Its numbers depend on other instructions.
    pub bf16: bool,
}

const fn journey(name: &'static str, setup: fn() -> Files, lines: &'static [&'static str]) -> Journey {
    Journey { name, setup, lines, bf16: false }
}

/// Every journey, those that take longest first.
pub const JOURNEYS: &[Journey] = &[
    journey(
        "demo",
        nothing,
        &[
            "demo",
            "demo",
            "direction-patching-results --models demo",
            "directions list --model demo",
            "directions list 'das_*' 'kmeans_*' --model demo --json",
            "directions show das_simple_train_ADJ_layer2 --model demo",
            "directions compare 'das_simple_train_ADJ_*' --model demo",
            "directions compare '*_layer1' --model demo --csv",
            "directions compare 'das2d_*' 'das_*' --json",
            "status",
        ],
    ),
    journey(
        "circuit_sentiment_classification",
        nothing,
        &["circuit --config data/experiments/sentiment_classification.toml"],
    ),
    journey(
        "circuit_sentiment_continuation",
        nothing,
        &["circuit --config data/experiments/sentiment_continuation.toml"],
    ),
    journey(
        "circuit_contrastive_sentiment",
        nothing,
        &["circuit --config data/experiments/contrastive_sentiment.toml"],
    ),
    journey("circuit_one_sided_sentiment", nothing, &["circuit --config data/experiments/one_sided_sentiment.toml"]),
    journey(
        "circuit_toy_movie_review",
        nothing,
        &[
            "circuit --config data/experiments/toy_movie_review.toml",
            "circuit --config data/experiments/toy_movie_review.toml --model random:gpt2-small -- --threads 8 \
             --dry-run",
            "circuit --config data/experiments/toy_movie_review.toml --model pythia-160m",
        ],
    ),
    journey(
        "circuit_small",
        nothing,
        &[
            "circuit --config data/experiments/circuit_faithfulness.toml",
            "circuit --config data/experiments/mood_stories.toml",
            "circuit --config data/experiments/comma_ablation.toml -- --batch-tokens 512",
        ],
    ),
    journey(
        "readme",
        reviews,
        &[
            "fit-directions --models demo,random:pythia-14m --methods das,kmeans,mean_diff --test-sets simple_test \
             --epochs 2",
            "random-directions --models demo,random:pythia-14m",
            "direction-patching-suite --models demo,random:pythia-14m --eval-sets simple_test,simple_adverb \
             --positions auto,ALL --metrics logit_diff,logit_flip",
            "direction-patching-results --models demo,random-pythia-14m",
            "self-check --models demo",
            "verify --models demo",
            "activation-patching-maps --models demo",
            "attribution-patching --models demo --maps z,resid_pre,post --exact --dataset-file pairs.toml \
             --eval-sets pairs",
            "path-patching --models demo --senders z --receivers v:1.0,v:2.2,v:2.3",
            "neuroscope --models demo --text 'I loved it. The plot was awful.' --directions 'das_*' --layers all",
            "steering --models demo --directions kmeans_simple_train_ADJ_layer1 --coefficients -20..20:5 --samples 4",
            "fit-directions --models random:pythia-14m --methods das --train-sets simple_train --layers 5 --epochs 2",
            "status --json",
        ],
    ),
    journey(
        "fits",
        nothing,
        &[
            "fit-directions --positions ADJ,VRB --test-sets simple_test,simple_adverb --epochs 3",
            "fit-directions --models demo --methods das --train-sets simple_train --layers 0..4 --epochs 3",
            "fit-directions --methods kmeans,mean_diff --test-sets simple_product",
            "fit-directions --methods das --layers 1 --test-sets simple_test,simple_adverb --early-stop 3 \
             --learning-rate 0.3 --epochs 30 --overwrite",
            "fit-directions --train-sets simple_adverb,proper_nouns --methods pca,svd,logistic_regression --layers 0,2 \
             --json",
            "fit-directions --methods das2d --layers 2 --positions END --epochs 2 --seed 7 --threads 2",
            "fit-directions --models random:pythia-160m --methods kmeans,das --layers 6 --dry-run",
            "random-directions --direction-seed 7",
            "direction-patching-suite --directions 'pca_*layer2,das2d_*' --eval-sets simple_product,medical",
        ],
    ),
    journey(
        "compat",
        nothing,
        &[
            "fit-directions --methods das,mean_diff --layers 1 --weight-processing none --batch-size 16 --epochs 2",
            "direction-patching-suite",
            "direction-patching-suite --eval-sets classification_4 --compat double-spaces,unprocessed-fits",
            "fit-directions --methods kmeans --layers 1 --train-sets classification_4 \
             --compat pasted-adjectives,double-spaces",
            "direction-patching-suite --directions 'kmeans_*' --eval-sets classification_4 \
             --compat pasted-adjectives,double-spaces",
            "neuroscope --directions 'das_*' --compat unprocessed-fits --text 'It was great.'",
            "text-loss --directions mean_diff_simple_train_ADJ_layer1 --weight-processing none --methods zero \
             --text 'It was great, I loved it.'",
        ],
    ),
    journey(
        "suite",
        nothing,
        &[
            "fit-directions --methods das,das2d,kmeans,mean_diff,random --epochs 3 --layers 0..2",
            "fit-directions --methods das,das2d,kmeans,mean_diff --train-sets simple_test --epochs 3 --layers 1",
            "direction-patching-suite --models demo --directions 'das_*,kmeans_*' --eval-sets simple_test",
            "direction-patching-suite --positions ADJ,ALL --metrics logit_diff,logit_flip --layers all",
            "direction-patching-suite --projection ortho --directions '*_layer1'",
            "direction-patching-suite --projection para --directions '*_layer1'",
            "direction-patching-suite --directions 'mean_diff*layer1,das2d*layer1' --eval-sets \
             simple_product,simple_adverb \
             --metrics logit_diff,logit_diff_noising,prob_diff,log_prob,log_prob_noising,logit_flip,sign_flip \
             --positions auto,ALL --batch-tokens 256",
            "direction-patching-suite --models demo --directions 'das_*' --heads 2.2,2.3",
            "direction-patching-suite --models demo --directions 'das_*' --heads paper",
            "direction-patching-suite --directions 'das_*,kmeans_*' --eval-sets simple_test --json",
            "direction-patching-suite --directions 'kmeans_*' --overwrite",
            "direction-patching-results --json",
        ],
    ),
    journey(
        "shards",
        nothing,
        &[
            "fit-directions --methods mean_diff,das --epochs 2 --layers 0,1 --shard 0/2",
            "fit-directions --methods mean_diff,das --epochs 2 --layers 0,1 --shard 1/2",
            "direction-patching-suite --metrics logit_diff,logit_flip --eval-sets simple_test,simple_adverb --shard \
             0/2",
            "status",
            "merge",
            "direction-patching-suite --metrics logit_diff,logit_flip --eval-sets simple_test,simple_adverb --shard \
             1/2",
            "merge --json",
            "merge",
            "activation-patching-maps --maps z,resid_pre --shard 0/2",
            "activation-patching-maps --maps z,resid_pre --shard 1/2",
            "path-patching --receivers v:2.2,v:2.3 --positions EACH --shard 0/1",
            "merge",
            "activation-patching-maps --maps z,resid_pre",
            "path-patching --receivers v:2.2,v:2.3 --positions EACH",
            "random-directions --data-dir node1/data",
            "random-directions --data-dir node2/data",
            "direction-patching-suite --shard 0/2 --data-dir node1/data",
            "direction-patching-suite --shard 1/2 --data-dir node2/data",
            "merge node1/data node2/data --data-dir both",
            "status --data-dir both",
            "status --data-dir both --json",
        ],
    ),
    journey(
        "maps",
        reviews,
        &[
            "fit-directions --methods kmeans,das --epochs 4 --layers 1",
            "activation-patching-maps --models demo --eval-sets simple --maps z,q,k,v",
            "activation-patching-maps --maps z,z_by_position --metrics logit_diff,logit_diff_noising",
            "activation-patching-maps --maps mlp_out,resid_post,attn_out --eval-sets simple_adverb --json",
            "activation-patching-maps --dataset-file pairs.toml --eval-sets pairs --maps post,resid_mid",
            "activation-patching-maps --along das_simple_train_ADJ_layer1 --maps resid_pre",
            "ccs --models demo --eval-sets classification_4 --epochs 100 --tries 2",
            "activation-patching-maps --models demo --dataset-file reviews.toml --eval-sets true_labels \
             --along ccs_classification_4_ANSWER_layer3 --maps z,resid_pre",
            "activation-patching-maps --ablate kmeans_simple_train_ADJ_layer1 --ablate-layers 1 --ablate-positions ADJ \
             --maps z,resid_pre",
            "activation-patching-maps --ablate kmeans_simple_train_ADJ_layer1 --ablate-layers 1 \
             --ablate-method mean_over_places --maps attn_out",
        ],
    ),
    journey(
        "paths",
        nothing,
        &[
            "fit-directions --methods mean_diff --layers 4",
            "path-patching --models demo --senders z --receivers resid_post:3",
            "path-patching --models demo --senders z --receivers v:1.0,v:2.2,v:2.3 --positions EACH",
            "path-patching --models demo --senders z --receivers v:2.2 --method two-steps",
            "path-patching --models demo --receivers resid_post:3 --along mean_diff_simple_train_ADJ_layer4",
            "path-patching --senders mlp_out:0,z:1.0 --receivers v:2.0,q:2.1 --positions ADJ --json",
            "path-patching --receivers v:9.0",
        ],
    ),
    journey(
        "attribution",
        nothing,
        &[
            "fit-directions --methods das,kmeans --epochs 2 --layers 1",
            "attribution-patching --models demo --maps z,resid_pre,post",
            "attribution-patching --models demo --maps z,mlp_out --exact",
            "attribution-patching --models demo --maps z,mlp_out --integrated 10 --exact",
            "attribution-patching --maps z_by_position --metrics logit_diff_noising --eval-sets simple_product --json",
            "logit-attribution --models demo --eval-sets simple",
            "logit-attribution --models demo --maps heads,neurons --of difference",
            "logit-attribution --models demo --along das_simple_train_ADJ_layer1 --maps heads,heads_by_position",
            "logit-attribution --models demo --ablate kmeans_simple_train_ADJ_layer1 --ablate-layers 1",
            "logit-attribution --eval-sets simple_product --maps lens,lens_by_position,layers --json",
        ],
    ),
    journey(
        "attention",
        nothing,
        &[
            "attention --models demo --heads 0.0,1.0,2.2,2.3 --prompts 0,21",
            "attention --models demo --heads top:4 --to ADJ,VRB",
            "attention --heads top:2 --eval-sets classification_4 --to ADJ1 --json",
            "head-cosines --models demo --nodes 0.0@ADJ,0.0@VRB,2.2@END,2.3@END",
            "fit-directions --methods kmeans --layers 1",
            "neuron-cosines --models demo --directions 'kmeans_simple_train_ADJ_layer1'",
        ],
    ),
    journey(
        "ablation",
        nothing,
        &[
            "fit-directions --methods kmeans,das --epochs 4",
            "ablation --nodes z:1.0,z:1.2,mlp_out:0 --methods zero,mean,resample",
            "ablation --directions kmeans_simple_train_ADJ --positions ALL,ADJ --attention live,frozen --random 3",
            "ablation --eval-sets classification_4 --directions das_simple_train_ADJ --positions COMMA,ALL --require \
             COMMA \
             --correct-only --balance",
            "ablation --eval-sets mood_stories --nodes v:1,v:2 --methods corrupted --attention frozen \
             --positions NAME1+VRB1+NAME2+VRB2 --keep-at COMMA1+STOP1+COMMA2+STOP2",
            "ablation --directions das_simple_train_ADJ_layer1 --layers 1..2 --methods mean_over_places --json",
            "ablation --directions das_simple_train_ADJ --nodes z:1.0,resid_post:2",
            "ablation-maps --models demo --maps z,attn_out,mlp_out --methods zero,mean",
            "ablation-maps --maps z_by_position --methods resample --measures logit_diff,accuracy",
            "faithfulness --models demo --heads 1.0,1.2,2.2,2.3",
            "faithfulness --heads 1.0@ADJ+VRB,2.2@END,2.3@END --directions kmeans_simple_train_ADJ_layer1",
        ],
    ),
    journey(
        "probes",
        nothing,
        &[
            "probing --models demo --eval-sets simple --components resid_post,attn_out",
            "probing --eval-sets classification_4 --components mlp_out --json",
            "ccs --models demo --eval-sets classification_4",
            "logit-attribution --models demo --eval-sets classification_4 --along ccs_classification_4_ANSWER_layer4",
            "direction-patching-suite --directions 'ccs_*' --eval-sets classification_4",
        ],
    ),
    journey(
        "texts",
        texts,
        &[
            "fit-directions --methods das,kmeans,random --epochs 4",
            "neuroscope --text 'I loved it. The plot was awful.' --directions 'das_*' --layers all",
            "neuroscope --models demo --corpus reviews.jsonl --directions 'das_*layer1,kmeans_*layer1'",
            "neuroscope --models demo --corpus tokens.npy --directions 'das_*layer1' --exclude plain_words.txt --top 3",
            "neuroscope --models demo --corpus reviews.txt --directions '*_layer1' --layers 0..3 --tail 0.05 \
             --window 2 \
             --row-tokens 12 --every-token --min-count 3",
            "neuroscope --corpus reviews.txt --directions 'das_*layer1' --measure projection --name projected --json",
            "negation --models demo --directions '*_layer1'",
            "negation --models demo --directions '*_layer1' --texts negations.csv \
             --summary data/demo/neuroscope_reviews_summary.csv",
            "label-shares --labels labelled.csv --summary data/demo/neuroscope_reviews_summary.csv",
            "label-shares --labels labelled_steering.csv --value coef",
            "label-shares --labels labelled_steering.csv --value coef --parts 4 --json",
            "text-loss --models demo --corpus reviews.jsonl --directions kmeans_simple_train_ADJ_layer1",
            "text-loss --corpus reviews.txt --directions das_simple_train_ADJ --methods zero,resample --random 4",
            "text-loss --corpus reviews.txt --positions COMMA,PERIOD --methods mean_over_places --by-token 3",
            "text-loss --corpus reviews.txt --positions COMMA --methods mean_over_places --layers 1..3 \
             --means-corpus reviews.jsonl --name others --json",
        ],
    ),
    journey(
        "predictions",
        nothing,
        &[
            "fit-directions --methods kmeans --layers 1",
            "logit-lens --models demo --text 'I thought this movie was great, I loved it. The conclusion was' --top 3",
            "logit-lens --models demo --eval-sets simple_test --prompts 0,21 --layers 0,2,4",
            "logit-lens --directions kmeans_simple_train_ADJ_layer1 --sites blocks.2.hook_resid_pre --prompts 0 \
             --positions ADJ,ALL --top 2 --json",
        ],
    ),
    journey(
        "steering",
        nothing,
        &[
            "fit-directions --methods kmeans,das --epochs 4 --layers 1,2",
            "steering --directions kmeans_simple_train_ADJ_layer1 --coefficients -10..10:5 --samples 3",
            "steering --models demo --directions das_simple_train_ADJ_layer1 --coefficients -4..0 --threads 2 \
             --samples 2",
            "steering --directions kmeans_simple_train_ADJ --layers 1,2 --temperature 0 --prompt 'The film was'",
            "steering --directions kmeans_simple_train_ADJ_layer1 --sites blocks.0.hook_mlp_out --coefficients -3,3 \
             --samples 2 --top-k 0 --max-new-tokens 5 --seed 7 --json",
        ],
    ),
    journey(
        "treebank",
        treebank,
        &[
            "fit-directions --models demo --train-sets treebank_train --methods das,kmeans",
            "treebank-data-gen --root stanfordSentimentTreebank --models demo",
            "treebank-data-gen --models demo --scaffolds classification --splits train,test",
            "fit-directions --models demo --train-sets treebank_train --methods das,kmeans --layers 1,2,4 \
             --test-sets treebank_test",
            "fit-directions --models demo --train-sets treebank_train --scaffold classification --methods mean_diff \
             --layers 1",
            "direction-patching-suite --models demo --eval-sets treebank_test --scaffold classification --positions \
             END,ALL",
            "ablation --eval-sets treebank_test --scaffold classification --directions das_treebank_train_ALL_layer1 \
             --positions COMMA,ALL --require COMMA --correct-only --balance",
            "ccs --models demo --eval-sets treebank_test --scaffold classification --epochs 50 --tries 2",
            "treebank-data-gen --models demo --filter always --splits test --overwrite --json",
            "treebank-data-gen --models random:pythia-14m --scaffolds plain --splits dev --repair",
        ],
    ),
    journey(
        "import",
        their_directions,
        &[
            "directions import their_directions --model demo --weight-processing none --dry-run",
            "directions import their_directions --model demo --directions 'das_*'",
            "directions import their_directions --model demo --json",
            "directions list --model demo",
            "directions show das_theirs_ADJ_layer1 --json",
            "directions compare --csv",
            "direction-patching-suite --weight-processing none",
            "direction-patching-suite",
            "directions import their_directions --model demo --weight-processing fold_ln,center_unembed --data-dir \
             other",
            "direction-patching-suite --weight-processing fold_ln,center_unembed --data-dir other",
            "directions import their_directions --model demo --directions 'das_*' --overwrite",
            "direction-patching-results",
            "directions import their_directions --model pythia-1.4b",
        ],
    ),
    journey(
        "checks",
        nothing,
        &[
            "self-check --models demo --eval-set simple_test --layers 0,2,3",
            "self-check --models random:pythia-14m --layers 0,6 --json",
            "verify --models demo --experiments baselines,ablation --json",
            "verify --models gpt2-small --experiments baselines,direction_cosines",
            "bench --dry-run",
            "bench --models random:gpt2-small --dry-run",
            "bench --models random:pythia-1.4b --workloads cell:12,das:12 --repetitions 3 --dry-run",
            "bench --models demo --prompts 256 --tokens 60 --workloads cell:3 --dry-run",
            "status",
            "merge",
        ],
    ),
    journey(
        "mistakes",
        nothing,
        &[
            "fit-directions --methods lda",
            "fit-directions --train-sets nowhere",
            "fit-directions --layers 9",
            "fit-directions --models nope",
            "fit-directions --models gpt2-small --layers 0",
            "fit-directions --positions MIDDLE --methods mean_diff",
            "fit-directions --train-sets two_token_adjectives",
            "fit-directions --compat trailing-space",
            "direction-patching-suite",
            "direction-patching-suite --metrics accuracy",
            "direction-patching-suite --shard 4/4",
            "activation-patching-maps --maps result",
            "path-patching --receivers v:0.0",
            "ablation --nodes z:9.0",
            "ablation",
            "neuroscope --directions 'das_*'",
            "steering --directions kmeans_simple_train_ADJ_layer1",
            "circuit --config nowhere.toml",
            "direction-patching-results",
            "fit-directions --dtype f16 --device cpu",
            "no-such-command",
            "--version",
        ],
    ),
    Journey {
        name: "bf16",
        setup: nothing,
        lines: &[
            "fit-directions --methods mean_diff,das --layers 1,2 --epochs 2 --dtype bf16",
            "direction-patching-suite --dtype bf16 --positions ADJ,ALL",
            "activation-patching-maps --maps z,resid_pre --dtype bf16",
            "self-check --dtype bf16 --layers 1 --against-cpu",
        ],
        bf16: true,
    },
];

fn nothing() -> Files {
    Vec::new()
}

fn file(name: &str, contents: impl Into<Vec<u8>>) -> (String, Vec<u8>) {
    (name.to_owned(), contents.into())
}

/// Reviews with a label behind them, true in clean prompts and false in corrupted ones; two pairs written out.
fn reviews() -> Files {
    let labelled = r#"
[true_labels]
template = "I thought this movie was{ADJ}, I{VRB} it. Review Sentiment:{LABEL}"
corrupted = "partner"
rows = "positive"
limit = ["positive_core_adjectives", "negative_core_adjectives"]
answers = { positive = "positive_sentiments", negative = "negative_sentiments" }
[true_labels.fill]
ADJ = { positive = "positive_core_adjectives", negative = "negative_core_adjectives" }
VRB = { positive = "positive_verbs", negative = "negative_verbs" }
LABEL = { both = "positive_sentiments" }
"#;
    let review = |adjective: &str, verb: &str| {
        format!("I thought this movie was{{ADJ: {adjective}}}, I {verb} it. \\nConclusion: This movie is")
    };
    let pair = |label: &str, [clean, corrupted]: [&str; 2], verb: &str, [correct, incorrect]: [&str; 2]| {
        format!(
            "[[pairs.prompts]]\nlabel = \"{label}\"\nclean = \"{}\"\ncorrupted = \"{}\"\n\
             correct = \" {correct}\"\nincorrect = \" {incorrect}\"\n",
            review(clean, verb),
            review(corrupted, verb)
        )
    };
    let pairs = pair("positive", ["amazing", "bad"], "loved", ["great", "terrible"])
        + &pair("negative", ["terrible", "good"], "hated", ["terrible", "great"]);
    vec![file("reviews.toml", labelled), file("pairs.toml", pairs)]
}

/// Short reviews as lines, as JSON and as tokens, words to leave out, negated words, and people's labels.
fn texts() -> Files {
    let subjects = ["The plot", "The film", "This movie", "The acting"];
    let words = ["great", "awful", "lovely", "bad", "superb", "terrible", "fine"];
    let line = |n: usize| {
        let word = |k: usize| words[(n * k + k) % words.len()];
        format!("{} was {}, and I thought it was {}.", subjects[n % 4], word(2), word(3))
    };
    let lines: Vec<String> = (0..24).map(line).collect();
    let json = |line: &String| serde_json::json!({ "text": line }).to_string();
    let tokens: Vec<u8> = (0..12 * 8u16).flat_map(|n| (n * 7 % 90 + 3).to_le_bytes()).collect();
    let label = |n: usize| ["Positive", "Negative", "Neutral"][n % 3];
    let labelled = |n: usize| format!("das_simple_train_ADJ_layer1,1,{:.3},{}", (n % 9) as f64 / 10.0 - 0.4, label(n));
    let steered = |n: usize| format!("{},{},{}", n as i64 - 6, words[n % 7], label(n));
    vec![
        file("reviews.txt", lines.join("\n")),
        file("reviews.jsonl", lines[..10].iter().map(json).collect::<Vec<_>>().join("\n")),
        file("tokens.npy", npy("<u2", "(12, 8)", &tokens)),
        file("plain_words.txt", "great\nAwful\n"),
        file("negations.csv", "text,word\nThat was not great.,great\nYou never fail.,fail\n"),
        file("labelled.csv", table("direction,layer,value,sentiment", (0..30).map(labelled))),
        file("labelled_steering.csv", table("coef,text,sentiment", (0..13).map(steered))),
    ]
}

fn table(header: &str, rows: impl Iterator<Item = String>) -> String {
    std::iter::once(header.to_owned()).chain(rows).map(|row| row + "\n").collect()
}

/// The small archive that the Treebank's own tests use.
fn treebank() -> Files {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/treebank");
    ["datasetSentences.txt", "datasetSplit.txt", "dictionary.txt", "sentiment_labels.txt"]
        .map(|name| file(&format!("stanfordSentimentTreebank/{name}"), std::fs::read(folder.join(name)).unwrap()))
        .into()
}

/// Directions as other programs write them.
fn their_directions() -> Files {
    let value = |n: usize| (n * 7 % 17) as f64 / 17.0 - 0.4;
    let list: Vec<f64> = (0..128).map(value).collect();
    let plane: Vec<u8> = (0..256).flat_map(|n| (value(n * n + 3) as f32).to_le_bytes()).collect();
    vec![
        file("their_directions/das_theirs_ADJ_layer1.json", serde_json::to_vec(&list).unwrap()),
        file("their_directions/das2d_theirs_ADJ_layer02.npy", npy("<f4", "(128, 2)", &plane)),
        file("their_directions/notes.txt", "none of ours"),
    ]
}

/// An `.npy` file.
fn npy(kind: &str, shape: &str, values: &[u8]) -> Vec<u8> {
    let header = format!("{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}\n");
    let length = u16::try_from(header.len()).unwrap().to_le_bytes();
    [b"\x93NUMPY\x01\x00", &length[..], header.as_bytes(), values].concat()
}
