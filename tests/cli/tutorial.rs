//! docs/tutorial.md, command by command, in a fresh folder.

use super::*;

/// The blocks of a page that begin with this fence.
fn blocks<'a>(page: &'a str, fence: &str) -> Vec<&'a str> {
    let opening = format!("\n```{fence}\n");
    let mut rest = page;
    let mut found = Vec::new();
    // Every other fence closes a block.
    while let Some((before, after)) = rest.split_once("\n```") {
        let (block, behind) = after.split_once("\n```").expect("a block is closed");
        let (first, body) = block.split_once('\n').unwrap();
        assert!(!before.contains("```"));
        if format!("\n```{first}\n") == opening {
            found.push(body);
        }
        rest = behind;
    }
    found
}

/// The words of a command as a shell sees them.
fn words(command: &str) -> Vec<String> {
    let quoted = command.split('\'').enumerate();
    quoted
        .flat_map(|(number, part)| {
            let whole = vec![part.to_owned()];
            if number % 2 == 1 { whole } else { part.split_whitespace().map(str::to_owned).collect() }
        })
        .collect()
}

#[test]
fn every_command_of_the_tutorial_does_what_the_page_says() {
    let page = include_str!("../../docs/tutorial.md");
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("my-model");
    std::fs::create_dir(&model).unwrap();
    for name in ["config.json", "model.safetensors", "tokenizer.json"] {
        let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/models/demo").join(name);
        std::fs::copy(demo, model.join(name)).unwrap();
    }
    let reviews = blocks(page, "csv")[0];
    assert!(page.contains("a file of nine lines") && reviews.lines().count() == 9);
    std::fs::write(folder.path().join("reviews.csv"), format!("{reviews}\n")).unwrap();

    let commands: Vec<String> = blocks(page, "")
        .iter()
        .flat_map(|block| block.replace("\\\n", " ").lines().map(str::to_owned).collect::<Vec<_>>())
        .collect();
    let commands: Vec<Vec<String>> =
        commands.iter().filter_map(|line| line.strip_prefix("actpatch ")).map(words).collect();
    assert!(commands.len() >= 8, "{commands:?}");
    let mut outputs = BTreeMap::new();
    for command in &commands {
        let arguments: Vec<&str> = command.iter().map(String::as_str).collect();
        let finished = finish(actpatch(&arguments).current_dir(folder.path())).success();
        assert!(!finished.stderr.contains("warning"), "{command:?}: {}", finished.stderr);
        outputs.insert(command[..2].join(" "), finished.stdout);
    }
    // What the page shows of `datasets show` is what is printed.
    let shown = page.lines().find_map(|line| line.trim().strip_prefix("clean      ")?.strip_suffix(" …")).unwrap();
    assert!(outputs["datasets show"].contains(shown), "{}", outputs["datasets show"]);

    // What the page reads in pandas: the files are there, and have these columns.
    let results = folder.path().join("data/my-model");
    let python = blocks(page, "python")[0];
    let named: Vec<&str> =
        python.split('"').filter(|part| part.contains("_layer2.") || part.ends_with(".csv")).collect();
    assert_eq!(named.len(), 4, "{named:?}");
    named.iter().for_each(|name| assert!(results.join(name).is_file(), "{name}"));
    let read = |name: &str| std::fs::read_to_string(results.join(name)).unwrap();
    let heads = read("activation_patching_logit_diff_reviews_plain_z.csv");
    let mut heads: Vec<(f64, &str)> = heads
        .lines()
        .skip(1)
        .map(|line| {
            let (head, percent) = line.rsplit_once(',').unwrap();
            (percent.parse().unwrap(), head)
        })
        .collect();
    heads.sort_by(|a, b| b.0.total_cmp(&a.0));
    // One head of layer 2 does nearly all of it.
    assert!(heads[0].0 > 90.0 && heads[0].1.starts_with("2,"), "{heads:?}");
    let suite = actpatch::report::SuiteRow::read(&results).unwrap();
    let percent = |method: &str| {
        let at = |row: &&actpatch::report::SuiteRow| row.method == method && row.layer == 2;
        suite.iter().find(at).and_then(|row| row.percent).unwrap()
    };
    assert!(page.contains("random directions recover\nnext to nothing"));
    assert!(percent("das") > 80.0 && percent("random_direction").abs() < 5.0, "{suite:?}");
    let texts = read("steering_das_reviews_ADJ_layer2.jsonl");
    let texts: Vec<serde_json::Value> = texts.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let coefficients: Vec<f64> = texts.iter().map(|text| text["coefficient"].as_f64().unwrap()).collect();
    assert_eq!(coefficients, [-8.0, 0.0, 8.0]);
    assert_ne!(texts[0]["text"], texts[2]["text"]);
    assert!(include_str!("../../README.md").contains("(docs/tutorial.md)"));
}
