//! The environment variables that all of the Hub's clients share, and the limits of a download.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// The Hub's public address.
const ENDPOINT: &str = "https://huggingface.co";

/// A secret that does not show up in logs.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// Wraps the text of a token.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text, for the one header that needs it.
    pub(super) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Token(hidden)")
    }
}

/// Where the Hub and its cache are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubSettings {
    /// The cache folder: `HF_HUB_CACHE`, else `$HF_HOME/hub`, else `$XDG_CACHE_HOME/huggingface/hub`, else
    /// `~/.cache/huggingface/hub`.
    pub cache: PathBuf,
    /// The Hub's address: `HF_ENDPOINT`.
    pub endpoint: String,
    /// Sent to the Hub and nowhere else: `HF_TOKEN`, else the file at `HF_TOKEN_PATH`, else the file `$HF_HOME/token`.
    pub token: Option<Token>,
    /// Never use the network: `HF_HUB_OFFLINE` is 1, `true`, `yes` or `on`.
    pub offline: bool,
    /// How long and how often a server is tried, and how much is taken from it.
    pub limits: Limits,
    /// Hears how far a download is.
    pub observer: Observer,
}

/// How long and how often a server is tried, and how much is taken from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// The longest time for looking up a host, and for connecting to it.
    pub connect: Duration,
    /// The longest time without a single byte.
    pub silence: Duration,
    /// The longest time for all of a small file (everything but weights), per attempt.
    pub small_file: Duration,
    /// The largest small file, in bytes.
    pub small_file_bytes: u64,
    /// The largest file of weights, in bytes.
    pub weights_bytes: u64,
    /// How often a request is tried before its failure counts; an attempt that brought a good part of a file is not
    /// counted.
    pub attempts: u32,
    /// The wait before the second attempt; it doubles with every further one.
    pub first_wait: Duration,
    /// The longest wait between two attempts. A server that asks for a longer one is not waited for.
    pub longest_wait: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(20),
            silence: Duration::from_secs(60),
            small_file: Duration::from_secs(600),
            // The largest tokenizers have about 35 MB.
            small_file_bytes: 128 << 20,
            // What the Hub takes at most.
            weights_bytes: 500_000_000_000,
            attempts: 5,
            first_wait: Duration::from_millis(500),
            // The Hub counts requests over five minutes.
            longest_wait: Duration::from_secs(300),
        }
    }
}

/// How far the download of a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress<'a> {
    /// The file's name in its repository.
    pub file: &'a str,
    /// The bytes there are.
    pub bytes: u64,
    /// The bytes there will be.
    pub total: u64,
}

/// What hears of progress.
type Hears = dyn Fn(Progress<'_>) + Send + Sync;

/// A function that hears of progress; by default there is none.
#[derive(Clone, Default)]
pub struct Observer(Option<Arc<Hears>>);

impl Observer {
    /// Wraps a function.
    pub fn new(hears: impl Fn(Progress<'_>) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(hears)))
    }

    pub(super) fn tell(&self, progress: Progress<'_>) {
        if let Some(hears) = &self.0 {
            hears(progress);
        }
    }
}

/// Two are equal that are the same function.
impl PartialEq for Observer {
    fn eq(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (None, None) => true,
            _ => false,
        }
    }
}

impl Eq for Observer {}

impl fmt::Debug for Observer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(if self.0.is_some() { "Observer(a function)" } else { "Observer(none)" })
    }
}

impl HubSettings {
    /// Reads the process environment.
    pub fn from_environment() -> Self {
        Self::resolve(|name| std::env::var(name).ok())
    }

    /// Resolves the settings from variables that `variable` looks up. An empty variable counts as unset.
    pub fn resolve(variable: impl Fn(&str) -> Option<String>) -> Self {
        let set = |name: &str| variable(name).filter(|value| !value.trim().is_empty());
        let user = PathBuf::from(set("HOME").or_else(|| set("USERPROFILE")).unwrap_or_else(|| ".".to_owned()));
        let folder = |name: &str| {
            set(name).map(|value| match value.strip_prefix("~/") {
                Some(rest) => user.join(rest),
                None => PathBuf::from(value),
            })
        };
        let home = folder("HF_HOME")
            .unwrap_or_else(|| folder("XDG_CACHE_HOME").unwrap_or_else(|| user.join(".cache")).join("huggingface"));
        let token_file = folder("HF_TOKEN_PATH").unwrap_or_else(|| home.join("token"));
        let token = set("HF_TOKEN").or_else(|| std::fs::read_to_string(token_file).ok());
        let token = token.map(|text| text.trim().to_owned()).filter(|text| !text.is_empty());
        let offline = set("HF_HUB_OFFLINE")
            .is_some_and(|value| ["1", "true", "yes", "on"].contains(&value.trim().to_ascii_lowercase().as_str()));
        Self {
            cache: folder("HF_HUB_CACHE").unwrap_or_else(|| home.join("hub")),
            endpoint: set("HF_ENDPOINT").unwrap_or_else(|| ENDPOINT.to_owned()).trim_end_matches('/').to_owned(),
            token: token.map(Token),
            offline,
            limits: Limits::default(),
            observer: Observer::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(variables: &[(&str, &str)]) -> HubSettings {
        HubSettings::resolve(|name| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn cache_folder_by_precedence() {
        let mut variables = vec![("HOME", "/home/a")];
        assert_eq!(resolve(&variables).cache, PathBuf::from("/home/a/.cache/huggingface/hub"));
        variables.push(("XDG_CACHE_HOME", "/x"));
        assert_eq!(resolve(&variables).cache, PathBuf::from("/x/huggingface/hub"));
        variables.push(("HF_HOME", "~/hf"));
        assert_eq!(resolve(&variables).cache, PathBuf::from("/home/a/hf/hub"));
        variables.push(("HF_HUB_CACHE", "/c"));
        assert_eq!(resolve(&variables).cache, PathBuf::from("/c"));
    }

    #[test]
    fn token_by_precedence_and_hidden() {
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path().to_str().unwrap();
        assert_eq!(resolve(&[("HF_HOME", home)]).token, None);
        std::fs::write(folder.path().join("token"), "from-home\n").unwrap();
        assert_eq!(resolve(&[("HF_HOME", home)]).token, Some(Token::new("from-home")));
        let path = folder.path().join("other");
        std::fs::write(&path, "from-path").unwrap();
        let path = path.to_str().unwrap();
        assert_eq!(resolve(&[("HF_HOME", home), ("HF_TOKEN_PATH", path)]).token, Some(Token::new("from-path")));
        let settings = resolve(&[("HF_HOME", home), ("HF_TOKEN_PATH", path), ("HF_TOKEN", "from-variable")]);
        assert_eq!(settings.token, Some(Token::new("from-variable")));
        assert!(!format!("{settings:?}").contains("from-variable"));
    }

    #[test]
    fn observers_are_told_compared_and_shown() {
        let heard = Arc::new(std::sync::Mutex::new(Vec::new()));
        let ear = Arc::clone(&heard);
        let observer = Observer::new(move |progress: Progress<'_>| ear.lock().unwrap().push(progress.bytes));
        observer.tell(Progress { file: "config.json", bytes: 3, total: 5 });
        Observer::default().tell(Progress { file: "config.json", bytes: 4, total: 5 });
        assert_eq!(*heard.lock().unwrap(), [3]);
        assert_eq!((&observer, Observer::default()), (&observer.clone(), Observer::default()));
        assert_ne!(observer, Observer::new(|_| {}));
        assert_ne!(observer, Observer::default());
        assert_eq!(format!("{observer:?}"), "Observer(a function)");
    }

    #[test]
    fn switches_and_address() {
        assert_eq!(resolve(&[]).endpoint, "https://huggingface.co");
        assert_eq!(resolve(&[("HF_ENDPOINT", "http://mirror/")]).endpoint, "http://mirror");
        for (value, offline) in [("1", true), ("TRUE", true), ("on", true), ("0", false), ("", false)] {
            assert_eq!(resolve(&[("HF_HUB_OFFLINE", value)]).offline, offline, "{value:?}");
        }
    }
}
