//! The token: sent to the Hub, and to no one else, and shown nowhere.

use super::server::{Fault, Hub, REPO};
use super::support::Copy;
use super::{complaint, load};
use actpatch::model::HubSettings;
use actpatch::model::hub::Token;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};

const SECRET: &str = "hf_AbCdEfGhIjKlMnOpQrStUvWxYz";

fn with(hub: &Hub, cache: &Path, token: &str) -> HubSettings {
    HubSettings { token: Some(Token::new(token)), ..hub.settings(cache) }
}

#[test]
fn the_hub_alone_sees_the_token() {
    let (copy, cache) = (Copy::of("gpt2-tiny"), tempfile::tempdir().unwrap());
    let hub = Hub::serve(copy.path());
    // A large file lies at another host anyway; a small one may.
    hub.disturb("tokenizer.json", [Fault::Elsewhere]);
    hub.demand(Some(SECRET));
    load(REPO, &with(&hub, cache.path(), SECRET)).unwrap();
    let seen = hub.seen();
    let (elsewhere, own): (Vec<_>, Vec<_>) = seen.iter().partition(|seen| seen.elsewhere);
    assert!(own.iter().all(|seen| seen.token.as_deref() == Some(&*format!("Bearer {SECRET}"))), "{own:?}");
    assert!(elsewhere.iter().all(|seen| seen.token.is_none()), "{elsewhere:?}");
    for file in ["tokenizer.json", "model.safetensors"] {
        assert!(elsewhere.iter().any(|seen| seen.transfers(file)), "{file}: {elsewhere:?}");
    }
}

#[test]
fn a_token_that_is_refused_is_not_shown() {
    let (copy, cache) = (Copy::of("gpt2-tiny"), tempfile::tempdir().unwrap());
    let hub = Hub::serve(copy.path());
    hub.demand(Some(SECRET));
    let message = complaint(REPO, &hub.settings(cache.path()));
    assert!(message.contains("HTTP 401") && message.contains("HF_TOKEN"), "{message}");
    let message = complaint(REPO, &with(&hub, cache.path(), "hf_other"));
    assert!(message.contains("HTTP 401") && !message.contains("hf_other"), "{message}");
    // It would end the header and begin another one.
    for token in ["hf_other\r\nX-Other: yes", "hf_other two", "hf_othér"] {
        let before = hub.seen().len();
        let message = complaint(REPO, &with(&hub, cache.path(), token));
        assert!(message.contains("HF_TOKEN") && !message.contains("hf_oth"), "{message}");
        assert_eq!(hub.seen().len(), before, "nothing is sent");
    }
    let settings = HubSettings { endpoint: "https://name:secret@hub.example".into(), ..hub.settings(cache.path()) };
    let message = complaint(REPO, &settings);
    assert!(message.contains("HF_ENDPOINT: expected an address") && !message.contains("secret"), "{message}");
}

/// A proxy that connects to wherever it is asked to, and what it was asked.
fn proxy() -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let heads = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&heads);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut client = stream.unwrap();
            let lines = BufReader::new(client.try_clone().unwrap()).lines().map(Result::unwrap);
            let head: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
            let mut server = TcpStream::connect(head[0].split(' ').nth(1).unwrap()).unwrap();
            noted.lock().unwrap().push(head.join("\n"));
            client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
            let (mut from, mut to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            std::thread::spawn(move || std::io::copy(&mut from, &mut to));
            std::thread::spawn(move || std::io::copy(&mut server, &mut client));
        }
    });
    (address, heads)
}

#[test]
fn a_proxy_passes_the_token_on_without_seeing_it_itself() {
    let (copy, cache) = (Copy::of("gpt2-tiny"), tempfile::tempdir().unwrap());
    let hub = Hub::serve(copy.path());
    hub.demand(Some(SECRET));
    let (address, heads) = proxy();
    let mut command = command(&hub, cache.path());
    command.env("ALL_PROXY", address).env_remove("NO_PROXY").env_remove("no_proxy").output().unwrap();
    load(REPO, &HubSettings { offline: true, ..hub.settings(cache.path()) }).unwrap();
    let heads = heads.lock().unwrap();
    assert_eq!(heads.len(), hub.seen().len(), "every request came by the proxy");
    assert!(heads.iter().all(|head| head.starts_with("CONNECT 127.0.0.1:") && !head.contains("earer")), "{heads:?}");
}

/// The program, which loads the model with the token.
fn command(hub: &Hub, cache: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_actpatch"));
    command.args(["self-check", "--device", "cpu", "--models", REPO, "--data-dir"]).arg(cache);
    command.env("HF_ENDPOINT", hub.endpoint()).env("HF_HUB_CACHE", cache).env_remove("HF_HUB_OFFLINE");
    command.env("HF_TOKEN", SECRET);
    command
}

#[test]
fn the_token_is_in_no_log() {
    let (copy, cache) = (Copy::of("gpt2-tiny"), tempfile::tempdir().unwrap());
    let hub = Hub::serve(copy.path());
    hub.demand(Some(SECRET));
    hub.disturb_heads("config.json", [Fault::Status(500, Vec::new())]);
    hub.disturb("tokenizer.json", [Fault::Elsewhere]);
    let output = command(&hub, cache.path()).env("RUST_LOG", "trace").output().unwrap();
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap()).concat();
    assert!(hub.seen().iter().filter(|seen| !seen.elsewhere).all(|seen| seen.token.is_some()));
    assert!(text.contains("HTTP 500; trying again"), "our own log is there");
    let bytes = dumped(&text);
    let has = |part: &str| bytes.windows(part.len()).any(|window| window == part.as_bytes());
    assert!(!text.contains("AbCdEfGh") && !has("AbCdEfGh") && !has("UvWxYz"), "{text}");
    assert!(has("HEAD /someone/gpt2-tiny") && has("authorization: Bearer ***"), "ureq's log is there");
}

/// The bytes that ureq writes into its log in rows such as `4745 5420 … GET `.
fn dumped(log: &str) -> Vec<u8> {
    let rows = log.lines().filter_map(|line| line.split_once("ureq_proto::util: ")).map(|(_, row)| row);
    let groups = rows.flat_map(|row| row.split(' ').take(8));
    let digits: Vec<u8> = groups.flat_map(|group| group.bytes()).filter(u8::is_ascii_hexdigit).collect();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks_exact(2).map(byte).collect()
}
