//! `report` and `serve`: a folder of results as a page, in a file and live.

use super::*;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Stdio};

/// `actpatch serve`, and its address without `http://` and the last slash.
fn serve(data: &Path) -> (Child, String) {
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_actpatch"))
        .args(["serve", "--port", "0", "--data-dir"])
        .arg(data)
        .env_remove("RUST_LOG")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    let address = line.trim().strip_prefix("http://").and_then(|rest| rest.strip_suffix('/')).unwrap();
    (child, address.to_owned())
}

fn get(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn report_writes_a_page_over_a_folder_and_says_what_is_wrong() {
    let data = fitted();
    run_in(data.path(), &["direction-patching-suite", "--directions", "mean*layer2"]).success();
    run_in(data.path(), &["direction-patching-results"]).success();
    let json = run_in(data.path(), &["report", "--json"]).success().json();
    assert_eq!(json["models"], serde_json::json!(["demo"]));
    assert_eq!((&json["runs"], &json["troubles"]), (&2.into(), &serde_json::json!([])));
    assert!(json["figures"].as_u64() > Some(3) && json["directions"].as_u64() > Some(10), "{json}");
    let path = data.path().join("index.html");
    assert_eq!(json["page"], path.display().to_string());
    let page = pages::data(&std::fs::read_to_string(&path).unwrap());
    assert_eq!(
        (&page["view"], &page["parts"][0]["name"], &page["progress"]),
        (&"overview".into(), &"demo".into(), &serde_json::Value::Null)
    );
    // Every address in it is a file's.
    let mut links = Vec::new();
    addresses(&page, &mut links);
    assert!(links.len() > 50, "{links:?}");
    for link in links {
        assert!(data.path().join(&link).is_file(), "{link}");
    }
    std::fs::remove_file(data.path().join("demo/mean_diff_simple_train_ADJ_layer0.npy")).unwrap();
    let text = run_in(data.path(), &["report"]).success().stdout;
    assert!(text.contains("index.html: 1 models, 2 runs, "), "{text}");
    assert!(
        text.contains("missing: demo/mean_diff_simple_train_ADJ_layer0.npy: written by fit-directions, "),
        "{text}"
    );
    let nowhere = data.path().join("nowhere");
    finish(actpatch(&["report", "--data-dir"]).arg(&nowhere)).fails(1, &["--data-dir", "nowhere"]);
}

fn addresses(value: &serde_json::Value, links: &mut Vec<String>) {
    match value {
        serde_json::Value::Object(fields) => {
            for (name, value) in fields {
                match value.as_str() {
                    Some(link) if ["href", "picture"].contains(&&**name) => links.push(link.to_owned()),
                    _ => addresses(value, links),
                }
            }
        }
        serde_json::Value::Array(values) => values.iter().for_each(|value| addresses(value, links)),
        _ => {}
    }
}

#[cfg(unix)]
#[test]
fn serve_shows_the_folder_as_it_is_and_ends_at_a_signal() {
    let data = fitted();
    let before = all_files(data.path());
    let (mut child, address) = serve(data.path());
    assert!(address.starts_with("127.0.0.1:"), "{address}");
    let page = get(&address, "/");
    assert!(page.starts_with("HTTP/1.1 200 ") && page.contains("<title>Results in "), "{}", &page[..200]);
    assert!(get(&address, "/demo/model.json").contains("\"asked\": \"demo\""));
    assert!(get(&address, "/progress.json").contains("\"sweeps\":[]"), "no sweep yet");
    assert!(get(&address, "/../Cargo.toml").starts_with("HTTP/1.1 404 "));
    let same_port = ["serve", "--port", address.rsplit(':').next().unwrap()];
    run_in(data.path(), &same_port).fails(1, &["--port", "127.0.0.1"]);
    assert!(all_files(data.path()) == before, "nothing is written");
    run_in(data.path(), &["direction-patching-suite", "--directions", "mean*layer2"]).success();
    // Answers are kept for a while.
    let asked = std::time::Instant::now();
    while !get(&address, "/progress.json").contains("\"done\":1,") {
        assert!(asked.elapsed().as_secs() < 60, "no progress is shown");
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    let signal = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(signal.success());
    assert_eq!(child.wait().unwrap().code(), Some(75));
    let mut stderr = String::new();
    child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    assert!(stderr.contains("until Ctrl-C") && stderr.contains("stopped by a signal"), "{stderr}");
}
