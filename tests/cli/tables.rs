//! Tables for other tools: the suite's values one a row, as CSV and as Parquet, and cells that no spreadsheet computes.

use super::*;
use actpatch::report::{SuiteCsv, SuiteRow};
use std::collections::BTreeSet;

/// A folder with directions of late layers, which take no time.
fn late() -> tempfile::TempDir {
    let data = tempfile::tempdir().unwrap();
    run_in(data.path(), &["fit-directions", "--methods", "mean_diff,pca", "--layers", "3,4"]).success();
    run_in(data.path(), &["random-directions"]).success();
    data
}

/// The rows of a table, the header first.
fn rows(path: &Path) -> Vec<Vec<String>> {
    let reader = csv::ReaderBuilder::new().has_headers(false).from_path(path).unwrap();
    reader.into_records().map(|row| row.unwrap().iter().map(str::to_owned).collect()).collect()
}

#[test]
fn every_value_of_the_suite_is_a_row_with_its_settings() {
    let data = late();
    let run = |extra: &[&str]| run_in(data.path(), &[&["direction-patching-suite"], extra].concat()).success();
    let directions = "*layer3,*layer4,random*layer04";
    run(&["--directions", directions, "--metrics", "logit_diff,logit_flip", "--positions", "auto,ALL"]);
    run(&["--directions", "pca_*layer4", "--layers", "all", "--compat", "unpatched-runs"]);
    run(&["--directions", "pca_*layer3", "--heads", "2.0,2.3"]);
    let folder = data.path().join("demo");
    let found = SuiteRow::read(&folder).unwrap();

    // The tables of the paper's layout hold the same values, and no others.
    let mut wide = 0;
    for path in SuiteCsv::files(&folder).unwrap() {
        let file = path.file_name().unwrap().to_str().unwrap();
        for ((direction, set, position), percent) in SuiteCsv::read(&path).unwrap().cells() {
            let same = |row: &&SuiteRow| {
                let fit = match row.method.as_str() {
                    "random_direction" => row.method.clone(),
                    method => format!("{method}_{}_{}", row.train_set, row.train_position),
                };
                let layers = if row.patched_layers == "all" { "_all_layers" } else { "" };
                let compat = if row.compat == "none" { String::new() } else { format!("_compat_{}", row.compat) };
                format!("direction_patching_{}_{}_plain{layers}{compat}.csv", row.metric, row.site) == file
                    && format!("{fit}_layer{:02}", row.layer) == *direction
                    && (&row.eval_set, &row.position) == (set, position)
            };
            let here: Vec<&SuiteRow> = found.iter().filter(same).collect();
            assert_eq!((here.len(), here[0].percent), (1, Some(*percent)), "{file} {direction} {set} {position}");
            wide += 1;
        }
    }
    assert_eq!(wide, found.len());
    let row = found.iter().find(|row| row.method == "random_direction").unwrap();
    assert_eq!((&*row.train_set, row.seed, row.bos), ("none", Some(42), Some(true)));
    assert_eq!((&*row.model, &*row.dtype, &*row.projection, &*row.scaffold), ("demo", "f32", "none", "plain"));
    assert_eq!(row.weight_processing, "fold_ln center_writing_weights center_unembed fold_value_biases");
    assert!(found.iter().any(|row| row.site == "attn_result_2.0-2.3" && row.seed == Some(0) && row.layer == 3));

    // What a tool sees that guesses types: numbers in columns of numbers, nothing empty, no number among the texts.
    let table = rows(&folder.join("direction_patching.csv"));
    for (column, name) in table[0].iter().enumerate() {
        let numbers = table[1..].iter().all(|row| row[column].parse::<f64>().is_ok());
        assert_eq!(numbers, ["layer", "seed", "percent"].contains(&name.as_str()), "{name}");
        assert!(table[1..].iter().all(|row| !row[column].is_empty()), "{name}");
    }
}

#[test]
fn the_table_follows_its_siblings() {
    let data = late();
    let suite = ["direction-patching-suite", "--directions", "mean_diff_*,random*layer04"];
    run_in(data.path(), &suite).success();
    let folder = data.path().join("demo");
    assert_eq!(SuiteRow::read(&folder).unwrap().len(), 3);
    // A direction that is replaced takes its values out of every table.
    run_in(data.path(), &["random-directions", "--direction-seed", "5", "--overwrite"]).success();
    let left = SuiteRow::read(&folder).unwrap();
    assert_eq!((left.len(), left.iter().any(|row| row.method == "random_direction")), (2, false));
    run_in(data.path(), &suite).success();
    let renewed = SuiteRow::read(&folder).unwrap();
    let random = renewed.iter().find(|row| row.method == "random_direction").unwrap();
    assert_eq!((renewed.len(), random.seed), (3, Some(5)));
    // BOS is told, whose values take the others' place.
    run_in(data.path(), &[&suite[..], &["--bos", "never"]].concat()).success();
    assert!(SuiteRow::read(&folder).unwrap().iter().all(|row| row.bos == Some(false)));
}

#[test]
fn shards_are_merged_into_the_same_table() {
    let table = |data: &Path| std::fs::read(data.join("demo/direction_patching.csv")).unwrap();
    let (whole, shards) = (late(), late());
    let suite =
        ["direction-patching-suite", "--directions", "pca_*,random*layer04", "--metrics", "logit_diff,sign_flip"];
    run_in(whole.path(), &suite).success();
    for shard in ["0/2", "1/2"] {
        run_in(shards.path(), &[&suite[..], &["--shard", shard]].concat()).success();
    }
    assert!(!shards.path().join("demo/direction_patching.csv").exists());
    run_in(shards.path(), &["merge"]).success();
    assert_eq!(table(shards.path()), table(whole.path()));
}

#[test]
fn two_processes_lose_no_row() {
    let data = late();
    std::thread::scope(|scope| {
        for directions in ["pca_*,mean_diff_*", "random*layer03,random*layer04"] {
            let data = data.path();
            scope.spawn(move || run_in(data, &["direction-patching-suite", "--directions", directions]).success());
        }
    });
    let found = SuiteRow::read(&data.path().join("demo")).unwrap();
    let methods: BTreeSet<&str> = found.iter().map(|row| &*row.method).collect();
    assert_eq!((found.len(), methods), (6, BTreeSet::from(["mean_diff", "pca", "random_direction"])));
}

#[cfg(feature = "parquet")]
#[test]
fn all_values_are_exported_to_parquet() {
    use parquet::file::reader::{FileReader, SerializedFileReader};
    use parquet::record::RowAccessor;
    let data = late();
    let path = data.path().join("values.parquet");
    let export = ["direction-patching-results", "--json", "--parquet", path.to_str().unwrap()];
    run_in(data.path(), &export).fails(1, &["direction_patching", "run first: actpatch direction-patching-suite"]);
    run_in(data.path(), &["direction-patching-suite", "--directions", "random*layer04"]).success();
    let json = run_in(data.path(), &export).success().json();
    assert!(json["written"].as_array().unwrap().contains(&path.to_str().unwrap().into()));
    let reader = SerializedFileReader::new(std::fs::File::open(&path).unwrap()).unwrap();
    let found: Vec<_> = reader.get_row_iter(None).unwrap().map(Result::unwrap).collect();
    let rows = SuiteRow::read(&data.path().join("demo")).unwrap();
    assert_eq!(found.len(), rows.len());
    for (found, row) in found.iter().zip(&rows) {
        let own = (found.get_string(1).unwrap(), found.get_ulong(4).unwrap(), found.get_double(17).unwrap());
        assert_eq!(own, (&row.method, row.layer as u64, row.percent.unwrap()));
    }
    // A table that is lost, or of an earlier version, is made by the suite, which has nothing to compute.
    std::fs::remove_file(SuiteRow::path(&data.path().join("demo"))).unwrap();
    run_in(data.path(), &export).fails(1, &["direction_patching.csv: no such file", "direction-patching-suite"]);
    let again = run_in(data.path(), &["direction-patching-suite", "--directions", "random*layer04"]).success();
    assert!(again.stderr.contains("exist already"), "{}", again.stderr);
    run_in(data.path(), &export).success();
}

#[test]
fn no_cell_is_a_formula_if_it_is_asked_for() {
    let data = late();
    let line = ["neuroscope", "--text", "=1+2-x@y", "--directions", "pca_*layer3", "--layers", "1", "--json"];
    let read = |extra: &[&str]| run_in(data.path(), &[&line[..], extra].concat()).success();
    let cells = || -> Vec<String> {
        let tables =
            files(data.path()).into_keys().filter(|path| path.extension().is_some_and(|ending| ending == "csv"));
        tables.flat_map(|path| rows(&data.path().join(path)).concat()).collect()
    };
    let formula = |cell: &String| cell.starts_with(['=', '+', '-', '@', '\t', '\r']) && cell.parse::<f64>().is_err();
    let guarded = read(&["--csv-guard"]);
    let found = cells();
    assert!(!found.iter().any(formula) && found.iter().any(|cell| cell.starts_with("'=") || cell.starts_with("'-")));
    assert!(found.iter().any(|cell| cell.starts_with("-0.")), "numbers are as they were");

    // It is the same result, which is kept as it was written, and read as it was before.
    let before = files(data.path());
    let kept = read(&[]);
    assert!(kept.stderr.contains("is kept as it was written, with csv_guard"), "{}", kept.stderr);
    assert_eq!(files(data.path()), before);
    let values = |finished: &Finished| finished.json()[0]["top"].clone();
    assert!(values(&guarded).as_array().is_some_and(|top| !top.is_empty()), "{}", guarded.stdout);
    assert_eq!(values(&kept), values(&guarded));

    // Asked for again, it is written the other way as a whole.
    let plain = read(&["--overwrite"]);
    assert!(cells().iter().any(formula) && !cells().iter().any(|cell| cell.starts_with("'=")));
    assert_eq!(values(&plain), values(&guarded));
    let kept = read(&["--csv-guard"]);
    assert!(kept.stderr.contains("is kept as it was written, without csv_guard"), "{}", kept.stderr);
}
