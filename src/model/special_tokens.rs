//! Which token opens a model's texts and which tokens end one, by all that a model folder says about it.

use super::config::ConfigFile;
use super::families::Architecture;
use super::{ModelError, Tokenizer};
use crate::choice::choices;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::path::Path;
use tokenizers::AddedToken;

/// Names that tokenizers of the supported families give their BOS token, for a `tokenizer.json` that stands alone.
const USUAL_BOS: [&str; 3] = ["<|endoftext|>", "<|begin_of_text|>", "<s>"];

/// The same of the token that ends a text.
const USUAL_ENDS: [&str; 3] = ["<|endoftext|>", "<|end_of_text|>", "</s>"];

/// The roles that `tokenizer_config.json` gives to tokens.
const ROLES: [&str; 7] = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

choices! {
    /// When a beginning-of-sequence token stands in front of every text.
    pub enum Bos {
        /// Where the model's family is used so and there is such a token, or where the tokenizer puts it there by itself.
        Auto = "auto",
        /// Always; a model without such a token is refused.
        Always = "always",
        /// Never.
        Never = "never",
    }
}

#[expect(clippy::derivable_impls, reason = "the macro that makes a choice derives no default")]
impl Default for Bos {
    fn default() -> Self {
        Self::Auto
    }
}

/// Which token opens every text of a model, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BosRecord {
    /// What was asked for.
    pub setting: Bos,
    /// The token's id, if a token opens the texts.
    pub token: Option<u32>,
    /// The file and the field that decided, or what was missing.
    pub because: String,
}

/// The small files of a folder that name special tokens, those that are there.
#[derive(Debug, Default)]
pub(super) struct TokenFiles {
    tokenizer_config: Option<ConfigFile>,
    special_tokens_map: Option<ConfigFile>,
    generation_config: Option<ConfigFile>,
    config: Option<ConfigFile>,
    /// Was the tokenizer put together from its vocabulary, so that no file says what it puts in front of a text?
    pub assembled: bool,
}

/// What the tokenizer's files say of a role.
enum Named {
    Token {
        content: String,
        because: String,
    },
    /// Nobody has it.
    Nobody {
        because: String,
    },
    Unsaid,
}

/// A token that may take a role.
struct Candidate {
    /// `None`: the tokenizer has none of that name.
    id: Option<i64>,
    name: String,
    because: String,
}

impl TokenFiles {
    /// Reads those beside a tokenizer.
    pub fn beside(tokenizer: &Path) -> Result<Self, ModelError> {
        let file = |name: &str| optional(&tokenizer.with_file_name(name));
        Ok(Self {
            tokenizer_config: file("tokenizer_config.json")?,
            special_tokens_map: file("special_tokens_map.json")?,
            ..Self::default()
        })
    }

    /// Those of a model's folder, besides the tokenizer's the model's.
    pub fn of_model(folder: &Path) -> Result<Self, ModelError> {
        let file = |name: &str| optional(&folder.join(name));
        let (generation_config, config) = (file("generation_config.json")?, file("config.json")?);
        Ok(Self { generation_config, config, ..Self::beside(&folder.join("tokenizer.json"))? })
    }

    /// Those of a tokenizer that was put together from what `tokenizer_config` and `config` stand for.
    pub fn assembled(tokenizer_config: ConfigFile, config: ConfigFile) -> Self {
        let (tokenizer_config, config) = (Some(tokenizer_config), Some(config));
        Self { tokenizer_config, config, assembled: true, ..Self::default() }
    }

    /// A `config.json` alone.
    pub fn of_config(config: ConfigFile) -> Self {
        Self { config: Some(config), ..Self::default() }
    }

    /// Does the tokenizer put a space in front of a text?
    pub fn adds_prefix_space(&self) -> Result<bool, ModelError> {
        match &self.tokenizer_config {
            Some(file) if file.get("add_prefix_space").is_some() => file.flag("add_prefix_space", false),
            _ => Ok(false),
        }
    }

    /// The tokens that texts may spell besides those of `tokenizer`, in the library's order.
    pub fn added_tokens(&self, tokenizer: &Tokenizer) -> Result<Vec<AddedToken>, ModelError> {
        let mut tokens = match &self.tokenizer_config {
            Some(file) => listed_tokens(file)?,
            None => Vec::new(),
        };
        for role in ROLES {
            if let Named::Token { content, .. } = self.named(role, tokenizer)?
                && !tokens.iter().any(|token| token.content == content)
            {
                tokens.push(AddedToken::from(content, true));
            }
        }
        Ok(tokens)
    }

    /// Which token opens the texts of a model of this architecture.
    pub fn bos(
        &self,
        setting: Bos,
        tokenizer: &Tokenizer,
        architecture: &dyn Architecture,
    ) -> Result<BosRecord, ModelError> {
        let record = |token, because: &str| Ok(BosRecord { setting, token, because: because.to_owned() });
        if setting == Bos::Never {
            return record(None, "asked for");
        }
        let d_vocab = architecture.config().d_vocab;
        let named = self.named("bos_token", tokenizer)?;
        let opening = self.opening(tokenizer, &named)?;
        let wanted = setting == Bos::Always || architecture.prepends_bos();
        let found = opening.and_then(|candidate| candidate.existing(tokenizer, d_vocab));
        if let Some((id, because)) = found {
            return record(Some(id), &because);
        }
        if !wanted {
            return record(None, "the tokenizer puts none in front of a text, nor is the family used with one");
        }
        let mut candidates = Vec::new();
        match named {
            Named::Token { content, because } => {
                candidates.push(Candidate { id: tokenizer.id(&content).map(i64::from), name: content, because });
            }
            Named::Nobody { because } if setting == Bos::Auto => return record(None, &because),
            Named::Nobody { .. } | Named::Unsaid => {}
        }
        for file in [&self.generation_config, &self.config].into_iter().flatten() {
            candidates.extend(Candidate::of_ids(file, "bos_token_id")?);
        }
        let usual = USUAL_BOS.iter().filter_map(|name| Some((tokenizer.id(name)?, format!("the usual name {name}"))));
        let said = candidates.into_iter().filter_map(|candidate| candidate.existing(tokenizer, d_vocab));
        match said.chain(usual.filter(|(id, _)| (*id as usize) < d_vocab)).next() {
            Some((id, because)) => record(Some(id), &because),
            None if setting == Bos::Auto => record(None, "no file names one"),
            None => Err(ModelError::NoBos { path: tokenizer.path().into() }),
        }
    }

    /// The token that the tokenizer puts in front of every text. GPT-NeoX's class does not follow `tokenizer.json` there, and
    /// a tokenizer without that file has only `add_bos_token`.
    fn opening(&self, tokenizer: &Tokenizer, named: &Named) -> Result<Option<Candidate>, ModelError> {
        if !self.assembled && self.class()?.as_deref() != Some("GPTNeoXTokenizer") {
            let because = "what the tokenizer puts in front of a text";
            return Ok(tokenizer.opening().map(|id| Candidate::new(i64::from(id), because.to_owned())));
        }
        match (&self.tokenizer_config, named) {
            (Some(file), Named::Token { content, .. }) if self.assembled && file.flag("add_bos_token", false)? => {
                let (id, because) = (tokenizer.id(content).map(i64::from), file.name_of("add_bos_token"));
                Ok(Some(Candidate { id, name: content.clone(), because }))
            }
            _ => Ok(None),
        }
    }

    /// The tokens that end a text: those of the first file that names any that exist.
    pub fn ends(&self, tokenizer: &Tokenizer, d_vocab: usize) -> Result<Vec<u32>, ModelError> {
        for file in [&self.generation_config, &self.config].into_iter().flatten() {
            let candidates = Candidate::of_ids(file, "eos_token_id")?;
            let existing = candidates.into_iter().filter_map(|candidate| candidate.existing(tokenizer, d_vocab));
            let ends: Vec<u32> = existing.map(|(id, _)| id).collect();
            if !ends.is_empty() {
                return Ok(ends);
            }
        }
        Ok(match self.named("eos_token", tokenizer)? {
            Named::Token { content, because } => {
                let id = tokenizer.id(&content).map(i64::from);
                let end = Candidate { id, name: content, because }.existing(tokenizer, d_vocab);
                end.map(|(id, _)| id).into_iter().collect()
            }
            Named::Nobody { .. } => Vec::new(),
            Named::Unsaid => {
                let usual = USUAL_ENDS.iter().find_map(|name| tokenizer.id(name));
                usual.filter(|id| (*id as usize) < d_vocab).into_iter().collect()
            }
        })
    }

    /// Who has a role, by the tokenizer's files. `special_tokens_map.json` is older, and read only where
    /// `tokenizer_config.json` does not list the added tokens; then it wins.
    fn named(&self, role: &str, tokenizer: &Tokenizer) -> Result<Named, ModelError> {
        let listed = self.tokenizer_config.as_ref().is_some_and(|file| file.mentions("added_tokens_decoder"));
        let older = self.special_tokens_map.as_ref().filter(|_| !listed);
        for file in older.into_iter().chain(&self.tokenizer_config) {
            if !file.mentions(role) {
                continue;
            }
            let because = file.name_of(role);
            return Ok(match file.get(role) {
                None => Named::Nobody { because },
                Some(value) => match content(value) {
                    Some(content) => Named::Token { content: content.to_owned(), because },
                    None => return Err(file.error(role, "a token, or an object with its `content`")),
                },
            });
        }
        self.of_class(role, tokenizer)
    }

    /// The library's class of the tokenizer: the one that a file names, or the family's.
    pub fn class(&self) -> Result<Option<String>, ModelError> {
        for file in [&self.tokenizer_config, &self.config].into_iter().flatten() {
            if let Some(class) = file.text("tokenizer_class")? {
                return Ok(Some(class.trim_end_matches("Fast").to_owned()));
            }
        }
        let family = match &self.config {
            Some(config) => config.text("model_type")?,
            None => None,
        };
        Ok(match family {
            Some("gpt2") => Some("GPT2Tokenizer".to_owned()),
            Some("gpt_neox") => Some("GPTNeoXTokenizer".to_owned()),
            Some("qwen2" | "qwen3") => Some("Qwen2Tokenizer".to_owned()),
            _ => None,
        })
    }

    /// Who has a role by the defaults of the tokenizer's class, as far as the tokenizer has the token.
    fn of_class(&self, role: &str, tokenizer: &Tokenizer) -> Result<Named, ModelError> {
        let Some(class) = self.class()? else { return Ok(Named::Unsaid) };
        let because = format!("the default of {class}");
        let content = match (class.as_str(), role) {
            ("GPT2Tokenizer" | "GPTNeoXTokenizer", "bos_token" | "eos_token" | "unk_token") => "<|endoftext|>",
            ("GPTNeoXTokenizer", "pad_token") => "<|padding|>",
            ("Qwen2Tokenizer", "eos_token" | "unk_token" | "pad_token") => "<|endoftext|>",
            ("LlamaTokenizer", "bos_token") => "<s>",
            ("LlamaTokenizer", "eos_token") => "</s>",
            ("Qwen2Tokenizer", "bos_token") => return Ok(Named::Nobody { because }),
            _ => return Ok(Named::Unsaid),
        };
        match tokenizer.id(content) {
            Some(_) => Ok(Named::Token { content: content.to_owned(), because }),
            None => Ok(Named::Unsaid),
        }
    }
}

impl Candidate {
    fn new(id: i64, because: String) -> Self {
        Self { id: Some(id), name: format!("id {id}"), because }
    }

    /// The ids in a field, one or a list of them.
    fn of_ids(file: &ConfigFile, field: &str) -> Result<Vec<Self>, ModelError> {
        Ok(file.token_ids(field)?.into_iter().map(|id| Self::new(id, file.name_of(field))).collect())
    }

    /// The token's id and why it is the one; nothing, and a warning, of a token that does not exist.
    fn existing(self, tokenizer: &Tokenizer, d_vocab: usize) -> Option<(u32, String)> {
        let id = self.id.and_then(|id| u32::try_from(id).ok());
        let id = id.filter(|id| (*id as usize) < d_vocab && tokenizer.knows(*id));
        if id.is_none() {
            tracing::warn!(
                "{}: the token {} does not exist among {d_vocab} tokens of the model and those of {}: not used",
                self.because,
                self.name,
                tokenizer.path().display()
            );
        }
        id.map(|id| (id, self.because))
    }
}

/// A token as its text or as an object with it.
fn content(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value.get("content")?.as_str())
}

/// `added_tokens_decoder`, by number.
fn listed_tokens(file: &ConfigFile) -> Result<Vec<AddedToken>, ModelError> {
    let field = "added_tokens_decoder";
    let Some(list) = file.get(field) else { return Ok(Vec::new()) };
    let token = |(number, value): (&String, &Value)| {
        let flag = |name: &str, default| value.get(name).and_then(Value::as_bool).unwrap_or(default);
        let special = flag("special", false);
        let token = AddedToken::from(value.get("content")?.as_str()?, special)
            .single_word(flag("single_word", false))
            .lstrip(flag("lstrip", false))
            .rstrip(flag("rstrip", false))
            .normalized(flag("normalized", !special));
        Some((number.parse::<u32>().ok()?, token))
    };
    let tokens = list.as_object().and_then(|list| list.iter().map(token).collect::<Option<Vec<_>>>());
    let mut tokens = tokens.ok_or_else(|| file.error(field, "objects with a `content`, by token id"))?;
    tokens.sort_by_key(|(number, _)| *number);
    Ok(tokens.into_iter().map(|(_, token)| token).collect())
}

/// A file that may be absent.
fn optional(path: &Path) -> Result<Option<ConfigFile>, ModelError> {
    match std::fs::read(path) {
        Ok(bytes) => ConfigFile::parse(path, &bytes).map(Some),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(ModelError::Io { path: path.into(), source }),
    }
}
