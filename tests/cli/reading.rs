//! Reading texts along directions by the command line, on the demo model.

use super::*;
use actpatch::report::neuroscope::ChannelSummary;
use serde_json::Value;

/// The table of a file, header first.
fn table(path: &Path) -> Vec<Vec<String>> {
    let mut reader = csv::ReaderBuilder::new().has_headers(false).from_path(path).unwrap();
    reader.records().map(|record| record.unwrap().iter().map(str::to_owned).collect()).collect()
}

const TEXT: &str = "I thought this movie was great, I loved it. \nConclusion: This movie is";

#[test]
fn a_text_is_read_token_by_token_at_every_layer() {
    let data = fitted();
    let arguments =
        ["neuroscope", "--text", TEXT, "--text", "", "--text", "awful", "--directions", "das_*,random*layer00"];
    let arguments = [&arguments[..], &["--layers", "all", "--top", "3", "--min-count", "1"]].concat();
    let found = run_in(data.path(), &[&arguments[..], &["--json"]].concat()).success().json();
    let folder = data.path().join("demo");
    let values = table(&folder.join("neuroscope_text_values.csv"));
    assert_eq!(values[0][..3], ["document", "position", "token"]);
    let channels = found[0]["channels"].as_array().unwrap();
    assert_eq!((values[0].len(), &*values[0][3 + channels.len()]), (4 + channels.len(), "token_id"));
    // The tokens of a document spell its text; the empty one has none.
    let spelled =
        |document: &str| values.iter().filter(|row| row[0] == document).map(|row| &*row[2]).collect::<String>();
    assert_eq!((spelled("0"), spelled("1"), spelled("2")), (TEXT.into(), String::new(), "awful".into()));
    let column = |channel: usize| values[1..].iter().map(move |row| row[3 + channel].parse::<f64>().unwrap());
    for (number, channel) in channels.iter().enumerate() {
        let (direction, layer) = (channel["direction"].as_str().unwrap(), &channel["layer"]);
        assert_eq!(values[0][3 + number], format!("{direction}@{layer}"));
        // The table has the shortest digits that give the same f32.
        let (n, mean) = (values.len() - 1, column(number).sum::<f64>() / (values.len() - 1) as f64);
        let std = (column(number).map(|value| (value - mean).powi(2)).sum::<f64>() / n as f64).sqrt();
        assert_eq!(channel["tokens"], n);
        assert!((channel["mean"].as_f64().unwrap() - mean).abs() < 1e-7, "{channel}");
        assert!((channel["std"].as_f64().unwrap() - std).abs() < 1e-7, "{channel}");
        let largest = column(number).fold(f64::NEG_INFINITY, f64::max);
        let top = found[0]["top"].as_array().unwrap().iter();
        let own = |row: &&Value| (row["direction"] == direction) & (&row["layer"] == layer) & (row["end"] == "largest");
        let top: Vec<&Value> = top.filter(own).collect();
        assert_eq!((top.len(), &top[0]["rank"]), (3, &1.into()));
        assert!((top[0]["value"].as_f64().unwrap() - largest).abs() < 1e-6, "{} {largest}", top[0]);
    }
    // Behind the first block the adjective stands out along the direction that was fitted there.
    let own = |channel: &&Value| channel["direction"] == "das_simple_train_ADJ_layer1" && channel["layer"] == 1;
    assert!(channels.iter().any(|channel| own(&channel)), "{found}");
    for file in ["texts.html", "top.html", "top.csv", "samples.csv", "token_means.csv", "values.png", "summary.csv"] {
        assert!(folder.join(format!("neuroscope_text_{file}")).is_file(), "{file}");
    }
    let page = std::fs::read_to_string(folder.join("neuroscope_text_texts.html")).unwrap();
    let page = pages::data(&page);
    assert_eq!(page["channels"].as_array().unwrap().len(), channels.len());
    let texts = page["documents"].as_array().unwrap();
    assert_eq!(texts.iter().map(|text| &text["caption"]).collect::<Vec<_>>(), ["document 0", "document 2"]);
    let (tokens, values) = (texts[0]["tokens"].as_array().unwrap(), pages::floats(&texts[0]["values"]));
    assert_eq!(tokens.iter().map(|token| token.as_str().unwrap()).collect::<String>(), TEXT);
    assert_eq!(values.len(), tokens.len() * channels.len());
    let again = run_in(data.path(), &arguments).success();
    assert!(again.stderr.contains("exist already"), "{}", again.stderr);
    let plain = run_in(data.path(), &[&arguments[..], &["--overwrite", "--measure", "projection"]].concat()).success();
    assert!(plain.stdout.starts_with("demo, projection per token\ndirection"), "{}", plain.stdout);
}

#[test]
fn a_corpus_gives_samples_means_and_ends_whatever_the_batches() {
    let data = fitted();
    let corpus = data.path().join("reviews.jsonl");
    let words = ["great", "awful", "lovely", "bad", "superb", "the", "movie", "is", "was"];
    let line = |n: usize| {
        let text = (0..8).map(|word| words[(n * (word + 3) + word * word) % words.len()]).collect::<Vec<_>>().join(" ");
        format!("{{\"id\": {n}, \"text\": {text:?}}}\n")
    };
    std::fs::write(&corpus, (0..100).map(line).collect::<String>()).unwrap();
    let corpus = corpus.to_str().unwrap();
    let arguments = ["neuroscope", "--corpus", corpus, "--directions", "das_*layer1,pca_*layer1", "--window", "2"];
    let plan = run_in(data.path(), &[&arguments[..], &["--dry-run"]].concat()).success();
    assert!(plan.stdout.contains(" tokens in 100 rows") && plan.stdout.contains("FLOP"), "{}", plan.stdout);
    let found = run_in(data.path(), &[&arguments[..], &["--json"]].concat()).success().json();
    let file = |ending: &str| data.path().join(format!("demo/neuroscope_reviews_{ending}"));
    assert!(!file("values.csv").exists() && !file("texts.html").exists());
    let summary = ChannelSummary::read(&file("summary.csv")).unwrap();
    assert_eq!((summary.len(), summary[0].layer), (2, 1));
    assert!(plan.stdout.contains(&format!("one pass over {} tokens", summary[0].tokens)), "{}", plan.stdout);
    for row in &summary {
        let (lower, upper) = (row.lower.unwrap(), row.upper.unwrap());
        assert!(f64::from(row.min) <= lower && lower < row.mean && row.mean < upper && upper <= f64::from(row.max));
    }
    let samples = table(&file("samples.csv"));
    assert_eq!(samples[0].join(","), "direction,layer,lower,upper,count,value,document,position,token,text,token_id");
    let number = |row: &[String], column: usize| row[column].parse::<f64>().unwrap();
    for direction in summary.iter().map(|row| &row.direction) {
        let own: Vec<_> = samples[1..].iter().filter(|row| row[0] == *direction).collect();
        let mut bins: Vec<(&String, f64)> = own.iter().map(|row| (&row[2], number(row, 4))).collect();
        bins.dedup();
        assert_eq!(bins.iter().map(|(_, count)| count).sum::<f64>(), summary[0].tokens as f64, "{bins:?}");
        assert!(own.iter().all(|row| number(row, 2) <= number(row, 5) && number(row, 5) <= number(row, 3)));
        assert!(own.iter().all(|row| row[9].contains(&row[8])), "{own:?}");
    }
    let means = table(&file("token_means.csv"));
    assert!(means[1..].iter().all(|row| number(row, 5) >= 10.0), "{means:?}");
    assert_eq!(means[1][2..4], ["largest_mean", "1"]);
    // Small batches and rows read in halves change no value of the tokens in front of the cut.
    let small = [&arguments[..], &["--batch-tokens", "16", "--overwrite", "--json"]].concat();
    let small = run_in(data.path(), &small).success().json();
    for (a, b) in found[0]["channels"].as_array().unwrap().iter().zip(small[0]["channels"].as_array().unwrap()) {
        assert!((a["mean"].as_f64().unwrap() - b["mean"].as_f64().unwrap()).abs() < 1e-6, "{a} {b}");
    }
    let rows = run_in(data.path(), &[&arguments[..], &["--row-tokens", "5", "--overwrite", "--dry-run"]].concat());
    assert!(!rows.success().stdout.contains("in 100 rows"));
}

/// Reviews of some words, of which `great` is there in other writings.
fn reviews(folder: &Path) -> String {
    let words = ["great", "awful", "lovely", "bad", "superb", "the", "Great", "is", "was"];
    let line = |n: usize| (0..8).map(|word| words[(n * (word + 3) + word * word) % words.len()]).collect::<Vec<_>>();
    let path = folder.join("reviews.txt");
    std::fs::write(&path, (0..100).map(|n| line(n).join(" ") + "\n").collect::<String>()).unwrap();
    path.display().to_string()
}

#[test]
fn the_vocabularys_ends_are_those_of_its_means_and_deviations() {
    let data = fitted();
    let corpus = reviews(data.path());
    let arguments = ["neuroscope", "--corpus", &corpus, "--directions", "das_*layer1", "--top", "3", "--every-token"];
    run_in(data.path(), &arguments).success();
    let file = |ending: &str| data.path().join(format!("demo/neuroscope_reviews_{ending}"));
    let mut of_token: std::collections::BTreeMap<String, Vec<f64>> = Default::default();
    for row in &table(&file("values.csv"))[1..] {
        of_token.entry(row[2].clone()).or_default().push(row[3].parse().unwrap());
    }
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let std = |values: &[f64]| {
        (values.iter().map(|value| (value - mean(values)).powi(2)).sum::<f64>() / values.len() as f64).sqrt()
    };
    let frequent = of_token.iter().filter(|(_, values)| values.len() >= 10);
    let statistics: Vec<(&String, [f64; 2])> = frequent.map(|(token, v)| (token, [mean(v), std(v)])).collect();
    assert!(statistics.len() > 6, "{statistics:?}");
    let means = table(&file("token_means.csv"));
    for (list, which, sign) in
        [("largest_mean", 0, -1.0), ("smallest_mean", 0, 1.0), ("largest_std", 1, -1.0), ("smallest_std", 1, 1.0)]
    {
        let mut expected = statistics.clone();
        expected.sort_by(|a, b| (sign * a.1[which]).total_cmp(&(sign * b.1[which])));
        let found: Vec<_> = means.iter().filter(|row| row[2] == list).collect();
        assert_eq!(found.len(), 3, "{list}");
        for ((_, numbers), row) in expected.iter().zip(found) {
            let shown = [6, 7].map(|column| row[column].parse::<f64>().unwrap());
            let own = [mean(&of_token[&row[4]]), std(&of_token[&row[4]])];
            // Tokens that are always the same have no deviation but rounding.
            assert!((shown[which] - numbers[which]).abs() < 1e-7, "{list} {row:?} {numbers:?}");
            assert!((shown[0] - own[0]).abs() < 1e-7 && (shown[1] - own[1]).abs() < 1e-7, "{list} {row:?} {own:?}");
        }
    }
    let page = std::fs::read_to_string(file("token_means.html")).unwrap();
    assert!(page.contains("Most extreme means") && page.contains("Most extreme standard deviations"));
    assert!(file("token_means.svg").is_file() && file("token_means.png").is_file());
}

#[test]
fn excluded_words_are_in_no_list_but_count() {
    let data = fitted();
    let corpus = reviews(data.path());
    let words = data.path().join("words.txt");
    std::fs::write(&words, "GREAT\nbad\nphilately\n").unwrap();
    let arguments = [
        "neuroscope",
        "--corpus",
        &corpus,
        "--directions",
        "das_*layer1",
        "--top",
        "500",
        "--min-count",
        "1",
        "--name",
    ];
    run_in(data.path(), &[&arguments[..], &["all"]].concat()).success();
    run_in(data.path(), &[&arguments[..], &["some", "--exclude", words.to_str().unwrap()]].concat()).success();
    let file = |name: &str, ending: &str| data.path().join(format!("demo/neuroscope_{name}_{ending}"));
    let excluded = |token: &str| ["great", "bad"].contains(&token.trim().to_lowercase().as_str());
    for (ending, column) in [("top.csv", 7), ("samples.csv", 8), ("token_means.csv", 4)] {
        let [all, some] = ["all", "some"].map(|name| table(&file(name, ending)));
        assert!(all.iter().any(|row| excluded(&row[column])), "{ending}");
        assert!(some.len() > 4 && !some.iter().any(|row| excluded(&row[column])), "{ending}: {some:?}");
    }
    // Those that are left have the same statistics, and all values are in the summary.
    let statistics = |name: &str| {
        let rows = table(&file(name, "token_means.csv")).into_iter().filter(|row| row[2] == "largest_mean");
        let left = rows.filter(|row| !excluded(&row[4])).map(|row| row[4..].to_vec());
        left.collect::<Vec<_>>()
    };
    assert_eq!(statistics("all"), statistics("some"));
    let summary = |name: &str| std::fs::read(file(name, "summary.csv")).unwrap();
    assert_eq!(summary("all"), summary("some"));

    let exclude = |name: &str, text: &str| {
        let path = data.path().join(name);
        std::fs::write(&path, text).unwrap();
        run_in(data.path(), &[&arguments[..], &["new", "--exclude", path.to_str().unwrap()]].concat())
    };
    exclude("blank.txt", " \n\n").fails(1, &["--exclude", "blank.txt: expected a word a line, found none"]);
    exclude("rare.txt", "philately\n").fails(1, &["rare.txt: expected a word that is one token of demo"]);
    let text = ["neuroscope", "--text", " great great", "--directions", "das_*layer1", "--name", "new", "--exclude"];
    run_in(data.path(), &[&text[..], &[words.to_str().unwrap()]].concat())
        .fails(1, &["words.txt", "found nothing left"]);
    let missing = [&arguments[..], &["new", "--exclude", "nowhere.txt"]].concat();
    run_in(data.path(), &missing).fails(1, &["--exclude", "nowhere.txt"]);
    assert!(!file("new", "summary.csv").exists() && !file("new", "top.csv").exists());
}

#[test]
fn arrays_of_tokens_are_read_as_lines_of_them() {
    let data = fitted();
    let tokens = ndarray::Array2::from_shape_fn((40, 9), |(row, column)| (7 * row + 11 * column) as u16 % 90 + 3);
    let (array, lines) = (data.path().join("array.npy"), data.path().join("lines.jsonl"));
    ndarray_npy::write_npy(&array, &tokens).unwrap();
    let line = |row: ndarray::ArrayView1<u16>| format!("{{\"tokens\": {:?}}}\n", row.to_vec());
    std::fs::write(&lines, tokens.rows().into_iter().map(line).collect::<String>()).unwrap();
    let read = |path: &Path| {
        let arguments = ["neuroscope", "--corpus", path.to_str().unwrap(), "--directions", "das_*layer1"];
        let arguments = [&arguments[..], &["--every-token", "--name", "tokens", "--overwrite"]].concat();
        run_in(data.path(), &arguments).success();
        std::fs::read(data.path().join("demo/neuroscope_tokens_values.csv")).unwrap()
    };
    let found = read(&array);
    assert_eq!(found.iter().filter(|byte| **byte == b'\n').count(), 1 + 40 * 9);
    assert_eq!(found, read(&lines));

    let of = |name: &str| {
        let corpus = data.path().join(name).display().to_string();
        run_in(data.path(), &["neuroscope", "--corpus", &corpus, "--directions", "das_*layer1"])
    };
    ndarray_npy::write_npy(data.path().join("floats.npy"), &ndarray::array![[1.0f32]]).unwrap();
    of("floats.npy").fails(1, &["floats.npy: dtype: expected uint16, uint32, int32 or int64", "found <f4"]);
    ndarray_npy::write_npy(data.path().join("flat.npy"), &ndarray::array![1i32]).unwrap();
    of("flat.npy").fails(1, &["flat.npy: shape: expected (rows, tokens), found (1,)"]);
    ndarray_npy::write_npy(data.path().join("far.npy"), &ndarray::array![[1i32, 2], [3, 999_999]]).unwrap();
    of("far.npy").fails(1, &["far.npy: row 1, column 1: expected tokens 0 to ", "found 999999"]);
    std::fs::write(data.path().join("no.npy"), "1 2 3").unwrap();
    of("no.npy").fails(1, &["no.npy: header: expected an .npy file"]);
}

#[test]
fn what_cannot_be_read_is_named() {
    let data = fitted();
    let file = |name: &str, bytes: &[u8]| {
        let path = data.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path.display().to_string()
    };
    let run = |extra: &[&str]| run_in(data.path(), &[&["neuroscope"], extra].concat());
    let before = files(data.path());
    let of = |corpus: &str| run(&["--corpus", corpus, "--directions", "das_*"]);
    of("nowhere.txt").fails(1, &["--corpus: ", "nowhere.txt"]);
    of(&file("empty.txt", b"\n\n")).fails(1, &["--corpus: ", "empty.txt: expected a text, found none"]);
    of(&file("latin.txt", b"good\ncaf\xe9\n")).fails(1, &["latin.txt: line 2: expected UTF-8"]);
    of(&file("odd.jsonl", b"{\"title\": \"x\"}\n")).fails(1, &["odd.jsonl: line 1: expected {\"text\""]);
    of(&file("far.jsonl", b"{\"tokens\": [1, 999999]}\n"))
        .fails(1, &["far.jsonl: line 1: expected tokens 0 to ", "999999"]);
    let text = |extra: &[&str]| run(&[&["--text", "good", "--directions"], extra].concat());
    text(&["kmeans_*"]).fails(1, &["kmeans_*", "matches no"]);
    text(&["das2d_*"]).fails(1, &["--directions: das2d_simple_train_ADJ_layer", "found a subspace of 2"]);
    text(&["das_*", "--layers", "9"]).fails(1, &["--layers: 9 is outside 0 to 4"]);
    text(&["das_*", "--name", "a/b"]).fails(1, &["--name", "a/b"]);
    text(&["das_*", "--tail", "0.5"]).fails(2, &["--tail", "below 0.5"]);
    text(&["das_*", "--bin-width", "0"]).fails(2, &["--bin-width", "0.001 to 1"]);
    text(&["das_*", "--weight-processing", "none"]).fails(1, &["weight_processing"]);
    run(&["--directions", "das_*"]).fails(2, &["--corpus"]);
    run(&["--text", "a", "--corpus", "b"]).fails(2, &["--corpus"]);
    let mut after = files(data.path());
    after.retain(|path, _| path.starts_with("demo"));
    assert_eq!(after.len(), before.len(), "nothing is written");
}

#[test]
fn labels_become_shares_and_accuracies() {
    let data = fitted();
    let corpus = data.path().join("words.txt");
    let words = ["great", "awful", "lovely", "bad", "superb", "the", "movie", "is", "was", "terrible"];
    let line = |n: usize| (0..8).map(|word| words[(n * (word + 3) + word) % words.len()]).collect::<Vec<_>>().join(" ");
    std::fs::write(&corpus, (0..200).map(|n| line(n) + "\n").collect::<String>()).unwrap();
    let directions = "das_*layer1,mean_diff_*layer1,random*layer01";
    let read = ["neuroscope", "--corpus", corpus.to_str().unwrap(), "--directions", directions, "--tail", "0.05"];
    run_in(data.path(), &read).success();
    let (folder, label) = (data.path().join("demo"), data.path().join("labelled.csv"));
    let mut rows = table(&folder.join("neuroscope_words_samples.csv"));
    rows[0].push("sentiment".into());
    for row in &mut rows[1..] {
        let sentiment = match row[8].trim() {
            "great" | "lovely" | "superb" => "Positive",
            "awful" | "bad" | "terrible" => "Negative",
            _ => "Neutral",
        };
        row.push(sentiment.into());
    }
    let mut writer = csv::Writer::from_path(&label).unwrap();
    rows.iter().for_each(|row| writer.write_record(row).unwrap());
    writer.flush().unwrap();
    let summary = folder.join("neuroscope_words_summary.csv");
    let [label, summary] = [&label, &summary].map(|path| path.to_str().unwrap());
    let empty = folder.join("empty.csv");
    std::fs::write(&empty, "").unwrap();
    finish(actpatch(&["label-shares", "--labels"]).arg(&empty)).fails(1, &["empty.csv: header", "found none"]);
    // A range without end has no axis: a warning tells why, and the table is there.
    let endless = folder.join("endless.csv");
    std::fs::write(&endless, "value,sentiment\n1e308,Positive\n-1e308,Negative\n").unwrap();
    let undrawn = finish(actpatch(&["label-shares", "--parts", "1", "--labels"]).arg(&endless)).success();
    assert!(undrawn.stderr.contains("endless_shares is not drawn, its data are there: figure"), "{}", undrawn.stderr);
    assert!(folder.join("endless_shares.csv").is_file() && !folder.join("endless_shares.svg").exists());
    let shares = |extra: &[&str]| finish(&mut actpatch(&[&["label-shares", "--labels", label], extra].concat()));
    let found = shares(&["--summary", summary, "--json"]).success().json();
    let accuracy = |number: usize| found[number]["accuracy"].as_f64().unwrap();
    assert_eq!((&found[0]["direction"], &found[0]["layer"]), (&"das_simple_train_ADJ_layer1".into(), &1.into()));
    assert_eq!(found.as_array().unwrap().len(), 3);
    // Fitted directions tell good from bad words at their ends, a random one does not.
    assert!(accuracy(0) > 0.5 && accuracy(1) > 0.8 && accuracy(2) < 0.5, "{found}");
    let written = table(&data.path().join("labelled_accuracy.csv"));
    assert_eq!((written.len(), written[1][5].parse::<f64>().unwrap()), (4, accuracy(0)));
    let parts = table(&data.path().join("labelled_shares.csv"));
    assert_eq!(parts[0].join(","), "direction,layer,value,count,sentiment,share");
    let sum: f64 = parts[1..4].iter().map(|row| row[5].parse::<f64>().unwrap()).sum();
    assert!((sum - 1.0).abs() < 1e-12, "{parts:?}");
    assert!(data.path().join("labelled_shares.png").is_file());

    // Texts of steering have no direction.
    let steered = data.path().join("steered.csv");
    std::fs::write(
        &steered,
        "coef,sample,review,sentiment\n-5,0,awful,Negative\n0,0,fine,Neutral\n5,0,good,Positive\n",
    )
    .unwrap();
    let steered = steered.to_str().unwrap();
    let found = finish(&mut actpatch(&["label-shares", "--labels", steered, "--value", "coef", "--json"])).success();
    assert_eq!(found.json(), serde_json::json!([{ "labels": 3 }]));

    shares(&["--value", "loss"])
        .fails(1, &["labelled.csv: header: expected a column loss of a CSV table, found direction,layer"]);
    shares(&["--summary", label]).fails(1, &["labelled.csv", "expected a row of a neuroscope summary"]);
    shares(&["--summary", "nowhere.csv"]).fails(1, &["--summary: nowhere.csv"]);
    let short = data.path().join("short.csv");
    let lines: Vec<String> = std::fs::read_to_string(summary).unwrap().lines().take(2).map(str::to_owned).collect();
    std::fs::write(&short, lines.join("\n")).unwrap();
    shares(&["--summary", short.to_str().unwrap()])
        .fails(1, &["labelled.csv", "short.csv", "expected a direction and layer of the summary"]);
}

#[test]
fn negated_words_are_read_early_and_late() {
    let data = fitted();
    let run = |command: &str, extra: &[&str]| run_in(data.path(), &[&[command], extra].concat());
    let folder = data.path().join("demo");
    let directions = ["--directions", "das_*layer1,mean_diff_*layer1"];
    run("neuroscope", &[&directions[..], &["--text", TEXT, "--layers", "0..2"]].concat()).success();
    let summary = folder.join("neuroscope_text_summary.csv");
    let summary = ["--summary", summary.to_str().unwrap()];
    let found = run("negation", &[&directions[..], &summary, &["--json"]].concat()).success().json();
    assert_eq!((&found[0]["layers"], &found[0]["scores"][0]["texts"]), (&serde_json::json!([1, 2]), &27.into()));
    let rows = table(&folder.join("negation_texts.csv"));
    assert_eq!(rows[0].join(","), "direction,text,word,initial,last,change,flip");
    assert_eq!(rows.len(), 1 + 2 * 27);

    // Its values are those of the neuroscope at the word, here the last token but one.
    let text = ["--text", "That was not great.", "--layers", "1,2", "--name", "one"];
    run("neuroscope", &[&directions[..], &text].concat()).success();
    let values = table(&folder.join("neuroscope_one_values.csv"));
    let own = data.path().join("own.csv");
    std::fs::write(&own, "text,word\nThat was not great.,great\n").unwrap();
    let own = ["--texts", own.to_str().unwrap()];
    let found = run("negation", &[&directions[..], &own, &summary, &["--json"]].concat()).success().json();
    let row = &table(&folder.join("negation_own_texts.csv"))[1];
    let place = values[0].iter().position(|head| *head == format!("{}@1", row[0])).unwrap();
    let word = &values[values.len() - 2];
    let number = |text: &str| text.parse::<f64>().unwrap();
    assert!(word[2].ends_with("great"), "{values:?}");
    assert!((number(&row[3]) - number(&word[place])).abs() < 1e-6, "{row:?} {word:?}");
    assert!((number(&row[4]) - number(&word[place + 2])).abs() < 1e-6, "{row:?} {word:?}");
    let score = found[0]["scores"].as_array().unwrap().iter().find(|score| score["direction"] == row[0]).unwrap();
    assert!((score["raw_score"].as_f64().unwrap() - number(&row[5])).abs() < 1e-12, "{score}");
    assert!((score["flip_size"].as_f64().unwrap() - number(&row[6])).abs() < 1e-12, "{score}");

    let alone = run("negation", &[&directions[..], &["--overwrite", "--json"]].concat()).success().json();
    assert!(alone[0]["scores"][0]["z_score"].is_null());
    assert!(run("negation", &directions).success().stderr.contains("exist already"));
    let fails = |extra: &[&str], words: &[&str]| run("negation", &[&directions[..], extra].concat()).fails(1, words);
    fails(&["--initial", "2"], &["--initial: expected two layers of 0 to 4 in order, found 2 and 2"]);
    fails(&["--last", "9"], &["--last", "found 1 and 9"]);
    fails(&["--texts", "nowhere.csv"], &["--texts: nowhere.csv"]);
    let other = data.path().join("other.csv");
    for (text, words) in [
        ("text,word\n", "expected texts, found none"),
        ("sentence\nx\n", "expected columns text and word"),
        ("text,word\nI dislike it.,like\n", "expected the word \"like\" in it, found none"),
    ] {
        std::fs::write(&other, text).unwrap();
        fails(&["--texts", other.to_str().unwrap(), "--overwrite"], &[words]);
    }
    std::fs::write(&other, "direction,layer,tokens,mean,std,min,max,lower,upper\nx,1,9,0,1,-1,1,,\n").unwrap();
    fails(
        &["--summary", other.to_str().unwrap()],
        &["--summary", "expected rows of mean_diff_simple_train_ADJ_layer1"],
    );
}

#[test]
fn heads_write_along_a_direction() {
    let data = fitted();
    let run = |extra: &[&str]| run_in(data.path(), &[&["logit-attribution"], extra].concat());
    let along = ["--along", "das_simple_train_ADJ_layer3", "--maps", "layers,heads,heads_by_position"];
    let found = run(&[&along[..], &["--json"]].concat()).success().json();
    let maps = found[0]["maps"].as_array().unwrap();
    let stem = "direction_attribution_das_simple_train_ADJ_layer3_clean_simple_plain";
    assert_eq!(maps[1]["file"], format!("{stem}_heads"));
    assert_eq!(maps[2]["shape"], serde_json::json!([4, 4, 19]));
    let numbers =
        |map: &Value| map["projection"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect::<Vec<_>>();
    let (heads, by_position) = (numbers(&maps[1]), numbers(&maps[2]));
    for (head, value) in heads.iter().enumerate() {
        assert!((by_position[head * 19 + 18] - value).abs() < 1e-9, "{head}");
    }
    // A layer's heads write what its attention does, but for the bias, which both classes share.
    let layers = numbers(&maps[0]);
    let sum = heads[8..12].iter().sum::<f64>();
    assert!((sum - layers[6]).abs() < 0.1 * sum.abs(), "{heads:?} {layers:?}");
    assert!(data.path().join(format!("demo/{stem}_heads_by_position.png")).is_file());
    run(&["--along", "das_*"]).fails(1, &["--along: expected one direction", "found 4"]);
    run(&["--along", "kmeans_x"]).fails(1, &["--along", "kmeans_x"]);
}

#[test]
fn neurons_are_compared_with_directions() {
    let data = fitted();
    let run = |extra: &[&str]| run_in(data.path(), &[&["neuron-cosines"], extra].concat());
    let found = run(&["--directions", "das_*layer1,random*layer00", "--json"]).success().json();
    let maps = found[0]["maps"].as_array().unwrap();
    assert_eq!((maps.len(), &maps[0]["shape"]), (2, &serde_json::json!([4, 512])));
    let largest = |map: &Value| {
        map["cosine"].as_array().unwrap().iter().map(|value| value.as_f64().unwrap().abs()).fold(0.0, f64::max)
    };
    // Some neuron writes sentiment; along a random direction none stands out.
    assert!(largest(&maps[1]) > largest(&maps[0]) && largest(&maps[1]) <= 1.0, "{}", maps[1]["file"]);
    assert!(data.path().join("demo/neuron_cosines_das_simple_train_ADJ_layer1.png").is_file());
    assert!(run(&["--directions", "das_*layer1"]).success().stderr.contains("1 maps exist already"));
    assert!(run(&["--directions", "das_*layer2", "--dry-run"]).success().stdout.contains("1 directions, 2048 neurons"));
    run(&["--directions", "das3d_*"]).fails(1, &["das3d_*"]);
}

#[test]
fn heads_that_write_alike_are_found() {
    let data = tempfile::tempdir().unwrap();
    let run = |extra: &[&str]| run_in(data.path(), &[&["head-cosines"], extra].concat());
    let found = run(&["--nodes", "2.3@END,2.2@END,0.1@ADJ", "--json"]).success().json();
    let map = &found[0]["maps"][0];
    assert_eq!((&map["axes"][1], &map["components"][2]), (&"other_node".into(), &"0.1@ADJ".into()));
    let cosines: Vec<f64> = map["cosine"].as_array().unwrap().iter().map(|value| value.as_f64().unwrap()).collect();
    for (row, column) in [(0, 1), (0, 2), (1, 2), (0, 0), (1, 1), (2, 2)] {
        let expected = if row == column { 1.0 } else { cosines[3 * column + row] };
        assert!((cosines[3 * row + column] - expected).abs() < 1e-12, "{cosines:?}");
    }
    let table = table(&data.path().join("demo/head_cosines_cosine_simple_plain_2.3@END-2.2@END-0.1@ADJ.csv"));
    assert_eq!((table[0].join(","), &*table[2][1]), ("node,other_node,cosine".into(), "2.2@END"));
    assert!(run(&["--nodes", "2.3@END", "--dry-run"]).success().stdout.contains("1 nodes, one pass"));
    run(&["--nodes", "2.3"]).fails(2, &["--nodes", "9.2@END"]);
    run(&["--nodes", "9.2@END"]).fails(1, &["--nodes", "layers 0 to 3", "found 9.2@END"]);
    run(&["--nodes", "2.3@99"]).fails(1, &["--nodes: simple: expected a position of 0 to 18, found 99"]);
    run(&["--nodes", "2.3@1"]).fails(1, &["head 2.3", "expected a difference"]);
}

#[test]
fn directions_are_taken_away_from_texts() {
    let data = fitted();
    let texts =
        ["--text", "I thought this movie was great, I loved it.", "--text", "The plot was awful and the cast was bad."];
    let command =
        [&["text-loss", "--directions", "mean_diff_simple_train_ADJ_layer1", "--random", "1"], &texts[..]].concat();
    let both = [&command[..], &["--methods", "zero,resample"]].concat();
    let found = run_in(data.path(), &[&both[..], &["--json"]].concat()).success().json();
    let rows = found[0]["tables"][0]["rows"].as_array().unwrap();
    let names: Vec<_> =
        rows.iter().map(|row| (row["ablated"].as_str().unwrap(), row["method"].as_str().unwrap())).collect();
    let own = "mean_diff_simple_train_ADJ_layer1";
    assert_eq!(names, [(own, "zero"), (own, "resample"), ("random_1", "zero"), ("random_1", "resample")]);
    for row in rows {
        let number = |name: &str| row[name].as_f64().unwrap();
        assert_eq!(
            (row["tokens"].clone(), row["clean_loss"].clone()),
            (rows[0]["tokens"].clone(), rows[0]["clean_loss"].clone())
        );
        assert!(
            (number("loss") - number("clean_loss") - number("change")).abs() < 1e-9 && number("change") != 0.0,
            "{row}"
        );
    }
    let folder = data.path().join("demo");
    assert!(
        ["csv", "svg", "png", "pdf", "html"]
            .iter()
            .all(|ending| folder.join(format!("text_loss_text.{ending}")).is_file())
    );
    let again = run_in(data.path(), &both).success();
    assert!(again.stderr.contains("4 conditions exist already") && again.stdout.contains(own), "{}", again.stderr);
    let plan = run_in(data.path(), &[&both[..], &["--overwrite", "--dry-run"]].concat()).success();
    assert!(plan.stdout.contains("21 tokens to predict") && plan.stdout.contains("FLOP"), "{}", plan.stdout);
    let alone = ["text-loss", "--directions", own, "--text", "It was great.", "--name", "one"];
    run_in(data.path(), &alone).fails(1, &["texts to resample from", "at least 2"]);
    run_in(data.path(), &[&alone[..], &["--dry-run"]].concat()).fails(1, &["texts to resample from", "at least 2"]);
    let wrong = ["text-loss", "--directions", "pca_nowhere", "--text", "It was great."];
    run_in(data.path(), &wrong).fails(1, &["--directions", "pca_nowhere"]);
}

/// The changes of one condition in a table by token, as numbers; none where the cell is empty.
fn changes(rows: &[Vec<String>], keys: [&str; 3]) -> Vec<Option<f64>> {
    rows.iter().filter(|row| row[..3] == keys).map(|row| row[7].parse().ok()).collect()
}

#[test]
fn commas_are_ablated_and_losses_told_token_by_token() {
    let data = tempfile::tempdir().unwrap();
    let corpus = data.path().join("reviews.txt");
    let texts = ["I thought this movie was great, I loved it, really.", "The plot was awful.", "It was bad, very bad."];
    std::fs::write(&corpus, texts.join("\n")).unwrap();
    let arguments = ["text-loss", "--corpus", corpus.to_str().unwrap(), "--methods", "mean_over_places,zero"];
    let run = |extra: &[&str]| run_in(data.path(), &[&arguments[..], extra].concat());
    let some = ["--positions", "COMMA,COMMA+PERIOD", "--layers", "1..4", "--by-token", "2"];
    let found = run(&[&some[..], &["--json"]].concat()).success().json();
    let rows = found[0]["tables"][0]["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 4);
    let own = ["residual at layers 1..4", "mean_over_places", "COMMA"];
    let numbers = |row: &Value| ["tokens", "reached", "clean_loss", "change"].map(|name| row[name].as_f64().unwrap());
    let folder = data.path().join("demo");
    let by_token = table(&folder.join("text_loss_reviews_by_token_2.csv"));
    assert_eq!(by_token[0].join(","), "ablated,method,positions,document,position,token,clean_loss,change,token_id");
    // The first two texts, token by token.
    let of_own: Vec<&Vec<String>> = by_token[1..].iter().filter(|row| row[..3] == own).collect();
    let spelled =
        |document: &str| of_own.iter().filter(|row| row[3] == document).map(|row| &*row[5]).collect::<String>();
    assert_eq!((spelled("0"), spelled("1"), spelled("2")), (texts[0].into(), texts[1].into(), String::new()));
    let found = changes(&by_token[1..], own);
    assert_eq!(by_token.len(), 1 + 4 * found.len());
    let commas: Vec<usize> = (0..found.len()).filter(|&number| of_own[number][5].trim() == ",").collect();
    for (number, change) in found.iter().enumerate() {
        // What is predicted from a comma does not count, what stands before it does not change.
        let first = commas[0];
        match change {
            None => assert!(commas.contains(&(number - 1)), "token {number}"),
            Some(change) => {
                let behind = number > first && of_own[number][3] == "0";
                assert_eq!(*change != 0.0, behind, "token {number}: {change}");
            }
        }
    }
    assert_eq!(commas.len(), 2);
    // The table tells of all three texts.
    let all = ["I thought this movie was great, I loved it, really.", texts[1], texts[2]];
    let alone: Vec<String> = all.iter().flat_map(|text| ["--text".to_owned(), (*text).to_owned()]).collect();
    let alone: Vec<&str> = alone.iter().map(String::as_str).collect();
    let alone = [
        &["text-loss", "--methods", "zero", "--layers", "1..4", "--by-token", "3", "--positions", "COMMA"],
        &alone[..],
    ];
    let alone = run_in(data.path(), &[&alone.concat()[..], &["--json"]].concat()).success().json();
    let every = table(&folder.join("text_loss_text_by_token_3.csv"));
    let changed = changes(&every[1..], [own[0], "zero", "COMMA"]);
    let [tokens, reached, _, change] = numbers(&alone[0]["tables"][0]["rows"][0]);
    let counted: Vec<f64> = changed.iter().filter_map(|change| *change).collect();
    assert_eq!(
        (tokens, reached),
        (counted.len() as f64, counted.iter().filter(|change| **change != 0.0).count() as f64)
    );
    assert!((counted.iter().sum::<f64>() / tokens - change).abs() < 1e-6, "{change}");
    assert_eq!(numbers(&rows[2])[..3], numbers(&alone[0]["tables"][0]["rows"][0])[..3]);
    // The two largest increases, the largest first, and the page.
    let top = table(&folder.join("text_loss_reviews_by_token_2_top.csv"));
    let ranked: Vec<f64> = top[1..3].iter().map(|row| row[4].parse().unwrap()).collect();
    assert!(top[1][..3] == own && ranked[0] >= ranked[1] && ranked[1] > 0.0 && top[2][3] == "2", "{top:?}");
    let page = std::fs::read_to_string(folder.join("text_loss_reviews_by_token_2.html")).unwrap();
    let page = pages::data(&page);
    assert_eq!(["channels", "samples"].map(|what| page[what].as_array().unwrap().len()), [4, 4]);
    let tokens = page["documents"].as_array().unwrap().iter().flat_map(|text| text["tokens"].as_array().unwrap());
    assert!(tokens.into_iter().any(|token| token == " great"), "{page}");
}

#[test]
fn losses_by_token_are_kept_with_their_table() {
    let data = tempfile::tempdir().unwrap();
    let texts = ["--text", "It was great, I loved it.", "--text", "It was bad, very bad."];
    let run = |extra: &[&str]| run_in(data.path(), &[&["text-loss", "--methods", "zero"], &texts[..], extra].concat());
    let file = data.path().join("demo/text_loss_text_by_token_1.csv");
    let conditions = || table(&file)[1..].iter().map(|row| row[2].clone()).collect::<std::collections::BTreeSet<_>>();
    run(&["--positions", "COMMA"]).success();
    // The table has the condition, the losses by token are made.
    let made = run(&["--positions", "COMMA", "--by-token", "1"]).success();
    assert!(!made.stderr.contains("exist already") && file.is_file(), "{}", made.stderr);
    let before = files(data.path());
    let kept = run(&["--positions", "COMMA", "--by-token", "1"]).success();
    assert!(kept.stderr.contains("1 conditions exist already"), "{}", kept.stderr);
    assert_eq!(files(data.path()), before);
    // One more condition: all that are asked for are made together.
    let more = run(&["--positions", "COMMA,ALL", "--by-token", "1"]).success();
    assert!(!more.stderr.contains("exist already"), "{}", more.stderr);
    assert_eq!(conditions().len(), 2);
    assert!(run(&["--positions", "ALL", "--by-token", "1"]).success().stderr.contains("1 conditions exist already"));
    run(&["--positions", "COMMA,ALL", "--by-token", "1", "--overwrite"]).success();
    assert_eq!(table(&data.path().join("demo/text_loss_text.csv")).len(), 3);
}

#[test]
fn places_and_means_that_texts_do_not_have_are_named() {
    let data = tempfile::tempdir().unwrap();
    let texts = ["--text", "It was great, I loved it.", "--text", "It was bad, very bad."];
    let run = |extra: &[&str]| run_in(data.path(), &[&["text-loss"], &texts[..], extra].concat());
    let file = |name: &str, text: &str| {
        let path = data.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    run(&["--positions", "ADJ"]).fails(1, &["--positions: expected ALL", "COMMA, PERIOD", "found \"ADJ\""]);
    run(&["--positions", "COMMA+END"]).fails(1, &["--positions", "found \"COMMA+END\""]);
    let zero = ["--methods", "zero", "--positions", "PERIOD"];
    // A full stop is the last token of both.
    run(&zero).fails(1, &["never fires: no text of the corpus has a token PERIOD with others behind it"]);
    run(&[&zero[..], &["--dry-run"]].concat()).fails(1, &["token PERIOD"]);
    let end = ["--methods", "zero", "--positions", "COMMA", "--layers", "4"];
    run(&end).fails(1, &["blocks.3.hook_resid_post never fires", "COMMA"]);
    let plain = file("plain.txt", "It was great\n");
    let means = ["--methods", "mean_over_places", "--positions", "COMMA", "--means-corpus", &plain];
    run(&means).fails(1, &["the corpus that means are taken of has a token COMMA"]);
    run(&["--means-corpus", &plain]).fails(1, &["--means-corpus", "--methods mean_over_places"]);
    let others = file("others.txt", "Well, it was, after all, good\n");
    let means = ["--methods", "mean_over_places", "--positions", "COMMA", "--means-corpus", &others];
    let found = run(&[&means[..], &["--json"]].concat()).success().json();
    let of_others = found[0]["tables"][0]["rows"][0].clone();
    assert_eq!(of_others["method"], "mean_over_places of others");
    let own = run(&[&means[..4], &["--json"]].concat()).success().json();
    assert_ne!(own[0]["tables"][0]["rows"][0]["change"], of_others["change"]);
    let plan = run(&[&means[..4], &["--dry-run", "--overwrite"]].concat()).success();
    assert!(plan.stdout.contains("for means"), "{}", plan.stdout);
    let empty = file("empty.txt", "\n");
    run_in(data.path(), &["text-loss", "--corpus", &empty]).fails(1, &["empty.txt: expected a text, found none"]);
    run(&["--by-token", "0"]).fails(2, &["--by-token"]);
}

#[test]
fn cells_hold_tokens_as_they_are_also_those_that_a_spreadsheet_would_compute() {
    let data = fitted();
    let text = "=1+1 @SUM(A1) -2 +3";
    let read = ["neuroscope", "--directions", "das_*layer1", "--every-token", "--min-count", "1", "--text", text];
    run_in(data.path(), &read).success();
    let tokenizer = actpatch::model::Model::load("demo", &Default::default()).unwrap().tokenizer;
    let rows = table(&data.path().join("demo/neuroscope_text_values.csv"));
    let column = |name: &str| rows[0].iter().position(|head| head == name).unwrap();
    let (token, id) = (column("token"), column("token_id"));
    for row in &rows[1..] {
        assert_eq!(tokenizer.decode(&[row[id].parse().unwrap()]).unwrap(), row[token], "{row:?}");
    }
    assert!(rows[1..].iter().any(|row| row[token].starts_with('=')), "{rows:?}");
}
