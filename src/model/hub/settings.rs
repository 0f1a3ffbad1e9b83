//! The environment variables that all of the Hub's clients share.

use std::fmt;
use std::path::PathBuf;

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
    /// Sent to the Hub: `HF_TOKEN`, else the file at `HF_TOKEN_PATH`, else the file `$HF_HOME/token`. hf-hub 0.5 also
    /// sends it to the host that the Hub names for a large file, when it asks there for the file's size.
    pub token: Option<Token>,
    /// Never use the network: `HF_HUB_OFFLINE` is 1, `true`, `yes` or `on`.
    pub offline: bool,
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
    fn switches_and_address() {
        assert_eq!(resolve(&[]).endpoint, "https://huggingface.co");
        assert_eq!(resolve(&[("HF_ENDPOINT", "http://mirror/")]).endpoint, "http://mirror");
        for (value, offline) in [("1", true), ("TRUE", true), ("on", true), ("0", false), ("", false)] {
            assert_eq!(resolve(&[("HF_HUB_OFFLINE", value)]).offline, offline, "{value:?}");
        }
    }
}
