//! The tokenizer that a GGUF file's metadata describes, put together as a `tokenizer.json`: byte-level pairs with their merges
//! (`gpt2`), or SentencePiece's with scores (`llama`).

use super::file::GgufFile;
use super::merges::{self, MERGES};
use super::parts::Parts;
use super::pieces::{self, Pieces};
use super::reader::shown;
use crate::model::ModelError;
use crate::model::config::{ConfigFile, StoredKey};
use crate::model::provenance::FileRecord;
use crate::model::special_tokens::TokenFiles;
use crate::model::tokenizer::Tokenizer;
use crate::model::tokenizer_files::Loaded;
use serde_json::{Map, Value, json};
use std::collections::{BTreeSet, HashMap};
use std::fmt::Display;

/// What all keys of the tokenizer begin with.
const START: &str = "tokenizer.ggml.";

pub(super) const TOKENS: &str = "tokenizer.ggml.tokens";
const KINDS: &str = "tokenizer.ggml.token_type";
const PIECES: &str = "tokenizer.ggml.pre";
const PREFIX: &str = "tokenizer.ggml.add_space_prefix";
const OPENING: &str = "tokenizer.ggml.add_bos_token";

/// Keys of single tokens' ids, and their roles in `tokenizer_config.json` where they have one.
const IDS: [(&str, Option<&str>); 19] = [
    ("bos_token_id", Some("bos_token")),
    ("eos_token_id", Some("eos_token")),
    ("unknown_token_id", Some("unk_token")),
    ("padding_token_id", Some("pad_token")),
    ("eot_token_id", None),
    ("eom_token_id", None),
    ("separator_token_id", None),
    ("seperator_token_id", None),
    ("cls_token_id", None),
    ("mask_token_id", None),
    ("prefix_token_id", None),
    ("suffix_token_id", None),
    ("middle_token_id", None),
    ("fim_pre_token_id", None),
    ("fim_suf_token_id", None),
    ("fim_mid_token_id", None),
    ("fim_pad_token_id", None),
    ("fim_rep_token_id", None),
    ("fim_sep_token_id", None),
];

/// Those of them that the tokenizer does not do without where they are given.
const NEEDED: [&str; 3] = ["bos_token_id", "eos_token_id", "unknown_token_id"];

/// Further keys that are read.
const READ: [&str; 8] =
    ["model", "pre", "tokens", "token_type", "scores", "merges", "add_space_prefix", "add_bos_token"];

/// Flags that have one value there is code for; where a key is absent, that is the one.
const FLAGS: [(&str, bool); 5] = [
    ("add_eos_token", false),
    ("add_sep_token", false),
    ("remove_extra_whitespaces", false),
    ("escape_whitespaces", true),
    ("treat_whitespace_as_suffix", false),
];

/// The longest token in bytes: no vocabulary has one that is half as long, and pairs are looked for in every one.
const LONGEST_TOKEN: usize = 1024;

/// Kinds of tokens by their numbers in the format.
const UNKNOWN: u64 = 2;
const CONTROL: u64 = 3;
const USER_DEFINED: u64 = 4;

/// What SentencePiece writes for a space.
const SPACE: &str = "\u{2581}";

/// The token that bytes without one become, as many vocabularies lack rare ones. No token has this name, so that a text
/// with such a byte is an error of the library, which would leave the byte out otherwise.
const NO_TOKEN: &str = "none: tokenizer.ggml.tokens lacks a byte of the text";

/// A vocabulary in the file.
struct Vocabulary<'a> {
    file: &'a GgufFile,
    tokens: Vec<&'a str>,
    /// Every token's place among them.
    ids: HashMap<&'a str, usize>,
    kinds: Option<Vec<u64>>,
    /// The keys of single tokens that are there, without what all keys begin with, their roles and the tokens.
    named: Vec<(&'static str, Option<&'static str>, usize)>,
}

/// The tokenizer of a model whose configuration is `config`.
pub(super) fn read(parts: &Parts, config: &ConfigFile) -> Result<Loaded, ModelError> {
    let file = parts.first();
    check_keys(file)?;
    let vocabulary = Vocabulary::read(file)?;
    vocabulary.check_size(config)?;
    let kind = file.metadata.text("tokenizer.ggml.model")?;
    let whole = match kind.as_deref() {
        Some("gpt2") => vocabulary.byte_level()?,
        Some("llama") => vocabulary.sentence_piece()?,
        other => {
            let expected = "a tokenizer that is read: gpt2 or llama; another one can be given by name";
            return Err(file.metadata.wrong("tokenizer.ggml.model", expected, other.unwrap_or("nothing")));
        }
    };
    let whole = whole.to_string();
    let files = vocabulary.token_files(config, kind.as_deref() == Some("llama"))?;
    // The tokenizer's record is that of the text it is made from: its file is the model's.
    let record = FileRecord::of_bytes(file.path(), whole.as_bytes());
    Ok(Loaded { tokenizer: Tokenizer::from_bytes(file.path(), whole.as_bytes(), None)?, record, files })
}

/// Refuses keys of the tokenizer that are not known, or that ask for what is not done.
fn check_keys(file: &GgufFile) -> Result<(), ModelError> {
    let mut keys: Vec<&str> = file.metadata.keys().filter_map(|key| key.strip_prefix(START)).collect();
    keys.sort_unstable();
    for name in keys {
        let key = format!("{START}{name}");
        if let Some((_, only)) = FLAGS.iter().find(|(flag, _)| *flag == name) {
            if let Some(found) = file.metadata.flag(&key)?.filter(|found| found != only) {
                return Err(file.metadata.wrong(&key, format!("{only} (the only value supported)"), found));
            }
        } else if name == "token_type_count" {
            // Of models that tell two texts apart; those here do not.
        } else if !READ.contains(&name) && !IDS.iter().any(|(id, _)| *id == name) {
            return Err(file.metadata.wrong(&key, "no such key: what it asks for is not done", "it"));
        }
    }
    Ok(())
}

impl<'a> Vocabulary<'a> {
    fn read(file: &'a GgufFile) -> Result<Self, ModelError> {
        let reader = file.reader();
        let tokens = file.metadata.texts(&reader, TOKENS)?;
        let tokens = tokens.ok_or_else(|| file.metadata.wrong(TOKENS, "a list of texts", "nothing"))?;
        if let Some((id, token)) = tokens.iter().enumerate().find(|(_, token)| token.len() > LONGEST_TOKEN) {
            let found = format!("token {id} of {} bytes", token.len());
            return Err(file.metadata.wrong(TOKENS, format!("tokens of at most {LONGEST_TOKEN} bytes"), found));
        }
        let mut ids = HashMap::new();
        for (id, token) in tokens.iter().enumerate() {
            if let Some(first) = ids.insert(*token, id) {
                return Err(twice(file, token, first, id));
            }
        }
        let kinds = file.metadata.values(&reader, KINDS, tokens.len(), Value::as_u64)?;
        let named = named(file, tokens.len())?;
        Ok(Self { file, tokens, ids, kinds, named })
    }

    /// A model has an embedding of every token, and none of others.
    fn check_size(&self, config: &ConfigFile) -> Result<(), ModelError> {
        let (rows, found) = (config.count("vocab_size", 0)?, self.tokens.len());
        if rows == found {
            return Ok(());
        }
        let expected = format!("{rows} tokens, as many as tensor `token_embd.weight` has rows");
        Err(self.file.metadata.wrong(TOKENS, expected, found))
    }

    /// The id that a key gives, if it is there.
    fn id(&self, name: &str) -> Option<usize> {
        self.named.iter().find(|(known, ..)| *known == name).map(|(.., id)| *id)
    }

    fn kind(&self, id: usize) -> u64 {
        self.kinds.as_ref().map_or(1, |kinds| kinds[id])
    }

    /// The tokens that texts may spell, whole and before anything is cut.
    fn added(&self) -> Value {
        let mut special: BTreeSet<usize> =
            (0..self.tokens.len()).filter(|id| matches!(self.kind(*id), UNKNOWN | CONTROL)).collect();
        special.extend(self.named.iter().filter(|(_, role, _)| role.is_some()).map(|(.., id)| *id));
        let spelled = (0..self.tokens.len()).filter(|id| self.kind(*id) == USER_DEFINED || special.contains(id));
        let token = |id: usize| {
            json!({
                "id": id, "content": self.tokens[id], "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": special.contains(&id)
            })
        };
        spelled.filter(|id| !self.tokens[*id].is_empty()).map(token).collect()
    }

    /// How texts are cut before pairs are looked for.
    fn pieces(&self) -> Result<Pieces, ModelError> {
        let metadata = &self.file.metadata;
        let name = metadata.text(PIECES)?.unwrap_or_else(|| "default".to_owned());
        if name == "default" {
            tracing::warn!(
                "{}: key `{PIECES}` does not say how the tokenizer cuts texts: they are cut as GPT-2's are",
                self.file.path().display()
            );
        }
        let expected = || format!("a way to cut texts that is known: {}", pieces::names());
        pieces::named(&name).ok_or_else(|| metadata.wrong(PIECES, expected(), &name))
    }

    /// Pairs of bytes that are spelled as letters.
    fn byte_level(&self) -> Result<Value, ModelError> {
        let (metadata, cut) = (&self.file.metadata, self.pieces()?);
        if metadata.flag(PREFIX)? == Some(true) {
            return Err(metadata.wrong(PREFIX, "false (the only value supported for gpt2)", "true"));
        }
        let entries = self.spelled()?;
        let merges = merges::listed(self.file, |token| entries.contains_key(token))?;
        let merges = merges.ok_or_else(|| metadata.wrong(MERGES, "a list of texts", "nothing"))?;
        let decoder = json!({ "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true });
        let model = json!({
            "type": "BPE", "dropout": null, "unk_token": NO_TOKEN, "continuing_subword_prefix": "",
            "end_of_word_suffix": "", "fuse_unk": false, "byte_fallback": false, "ignore_merges": cut.whole_pieces,
            "vocab": entries, "merges": merges
        });
        Ok(self.around(cut.normalizer, cut.pre_tokenizer, decoder, model))
    }

    /// The ids of tokens whose bytes are spelled as letters; of ordinary ones that are not yet, too.
    fn spelled(&self) -> Result<Map<String, Value>, ModelError> {
        let alphabet = alphabet();
        let letters: BTreeSet<char> = alphabet.iter().copied().collect();
        let mut entries = Map::new();
        for (id, token) in self.tokens.iter().enumerate() {
            let spelled = token.chars().all(|letter| letters.contains(&letter)) || self.kind(id) != 1;
            let entry = match spelled {
                true => (*token).to_owned(),
                false => token.bytes().map(|byte| alphabet[byte as usize]).collect(),
            };
            if let Some(first) = entries.insert(entry, id.into()) {
                return Err(twice(self.file, token, first, id));
            }
        }
        Ok(entries)
    }

    /// Pairs of letters, the best-scored first; letters that are no token fall back to their bytes.
    fn sentence_piece(&self) -> Result<Value, ModelError> {
        let merges = match merges::listed(self.file, |token| self.ids.contains_key(token))? {
            Some(merges) => merges,
            None => merges::implied(self.file, &self.tokens, &self.ids)?,
        };
        let entries: Map<String, Value> =
            self.tokens.iter().enumerate().map(|(id, token)| ((*token).to_owned(), id.into())).collect();
        let prefix = self.file.metadata.flag(PREFIX)?.unwrap_or(true);
        let scheme = if prefix { "first" } else { "never" };
        let pre_tokenizer =
            json!({ "type": "Metaspace", "replacement": SPACE, "prepend_scheme": scheme, "split": false });
        let mut decoders = vec![
            json!({ "type": "Replace", "pattern": { "String": SPACE }, "content": " " }),
            json!({ "type": "ByteFallback" }),
            json!({ "type": "Fuse" }),
        ];
        if prefix {
            decoders.push(json!({ "type": "Strip", "content": " ", "start": 1, "stop": 0 }));
        }
        let model = json!({
            "type": "BPE", "dropout": null, "unk_token": self.unknown()?, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
            "vocab": entries, "merges": merges
        });
        Ok(self.around(Value::Null, pre_tokenizer, json!({ "type": "Sequence", "decoders": decoders }), model))
    }

    /// The token that letters become whose bytes have none; where there is no such one, every byte has a token.
    fn unknown(&self) -> Result<Option<&'a str>, ModelError> {
        let of_its_kind = || (0..self.tokens.len()).find(|id| self.kind(*id) == UNKNOWN);
        let id = self.id("unknown_token_id").or_else(of_its_kind);
        let has_byte = |byte: u8| self.ids.contains_key(format!("<0x{byte:02X}>").as_str());
        if id.is_none() && !(0..=u8::MAX).all(has_byte) {
            let expected = "an unknown token, or tokens <0x00> to <0xFF> for all bytes";
            return Err(self.file.metadata.wrong(TOKENS, expected, "neither"));
        }
        Ok(id.map(|id| self.tokens[id]))
    }

    fn around(&self, normalizer: Value, pre_tokenizer: Value, decoder: Value, model: Value) -> Value {
        json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": self.added(),
            "normalizer": normalizer, "pre_tokenizer": pre_tokenizer, "post_processor": null, "decoder": decoder,
            "model": model
        })
    }

    /// What the files beside a tokenizer say about its special tokens.
    fn token_files(&self, config: &ConfigFile, sentence_piece: bool) -> Result<TokenFiles, ModelError> {
        let metadata = &self.file.metadata;
        let (mut fields, mut keys) = (Map::new(), HashMap::<String, StoredKey>::new());
        for (name, role, id) in &self.named {
            if let Some(role) = role {
                fields.insert((*role).to_owned(), self.tokens[*id].into());
                keys.insert((*role).to_owned(), metadata.stored_key(&format!("{START}{name}")));
            }
        }
        let opening = metadata.flag(OPENING)?;
        if opening == Some(true) && self.id("bos_token_id").is_none() {
            let expected = format!("the token that `{OPENING}` asks for");
            return Err(metadata.wrong(&format!("{START}bos_token_id"), expected, "nothing"));
        }
        // Files of SentencePiece's that are older than the flag mean yes.
        fields.insert("add_bos_token".to_owned(), opening.unwrap_or(sentence_piece).into());
        keys.insert("add_bos_token".to_owned(), metadata.stored_key(OPENING));
        let own = ConfigFile::translated(self.file.path(), fields, keys);
        Ok(TokenFiles::assembled(own, config.clone()))
    }
}

/// A key of a single token without its beginning, what the token does, and its number.
type NamedToken = (&'static str, Option<&'static str>, usize);

/// The keys of single tokens that are there, and the tokens. Those that nothing depends on may be out of range: in many
/// files the padding token is one behind the last.
fn named(file: &GgufFile, count: usize) -> Result<Vec<NamedToken>, ModelError> {
    let mut named = Vec::new();
    for (name, role) in IDS {
        let key = format!("{START}{name}");
        let Some(found) = file.metadata.integer(&key)? else { continue };
        match usize::try_from(found).ok().filter(|id| *id < count) {
            Some(id) => named.push((name, role, id)),
            None if NEEDED.contains(&name) => {
                return Err(file.metadata.wrong(&key, format!("the number of one of {count} tokens"), found));
            }
            None => {
                let path = file.path().display();
                tracing::warn!("{path}: key `{key}`: {found}, but there are {count} tokens: not used");
            }
        }
    }
    Ok(named)
}

/// The complaint about a token that is there a second time.
fn twice(file: &GgufFile, token: &str, first: impl Display, second: usize) -> ModelError {
    file.metadata.wrong(TOKENS, "every token once", format!("{first} and {second} alike: \"{}\"", shown(token)))
}

/// The letter that stands for each byte: printable ones for themselves, the others from 256 on (GPT-2).
fn alphabet() -> Vec<char> {
    let printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let mut others = '\u{100}'..;
    let letter = |byte: u8| if printable(byte) { Some(char::from(byte)) } else { others.next() };
    (0..=u8::MAX).filter_map(letter).collect()
}
