//! The tokenizer that a GGUF file's metadata describes, put together as a `tokenizer.json`: byte-level pairs with their merges
//! (`gpt2`), or SentencePiece's with scores (`llama`).

use super::file::GgufFile;
use super::parts::Parts;
use super::pieces;
use crate::model::ModelError;
use crate::model::config::{ConfigFile, StoredKey};
use crate::model::provenance::FileRecord;
use crate::model::special_tokens::TokenFiles;
use crate::model::tokenizer::Tokenizer;
use crate::model::tokenizer_files::Loaded;
use serde_json::{Map, Value, json};
use std::cmp::Ordering;
use std::collections::{BTreeSet, HashMap};

/// What all keys of the tokenizer begin with.
const START: &str = "tokenizer.ggml.";

const TOKENS: &str = "tokenizer.ggml.tokens";
const KINDS: &str = "tokenizer.ggml.token_type";
const SCORES: &str = "tokenizer.ggml.scores";
const MERGES: &str = "tokenizer.ggml.merges";
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

/// A vocabulary in the file.
struct Vocabulary<'a> {
    file: &'a GgufFile,
    tokens: Vec<&'a str>,
    kinds: Option<Vec<u64>>,
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
        let kinds = file.metadata.values(&reader, KINDS, tokens.len(), Value::as_u64)?;
        Ok(Self { file, tokens, kinds })
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
    fn id(&self, name: &str) -> Result<Option<usize>, ModelError> {
        let key = format!("{START}{name}");
        let Some(id) = self.file.metadata.whole(&key)? else { return Ok(None) };
        let known = usize::try_from(id).ok().filter(|id| *id < self.tokens.len());
        let expected = || format!("the number of one of {} tokens", self.tokens.len());
        known.map(Some).ok_or_else(|| self.file.metadata.wrong(&key, expected(), id))
    }

    fn kind(&self, id: usize) -> u64 {
        self.kinds.as_ref().map_or(1, |kinds| kinds[id])
    }

    /// The tokens that texts may spell, whole and before anything is cut.
    fn added(&self) -> Result<Value, ModelError> {
        let mut special: BTreeSet<usize> =
            (0..self.tokens.len()).filter(|id| matches!(self.kind(*id), UNKNOWN | CONTROL)).collect();
        for (name, role) in IDS {
            special.extend(self.id(name)?.filter(|_| role.is_some()));
        }
        let spelled = (0..self.tokens.len()).filter(|id| self.kind(*id) == USER_DEFINED || special.contains(id));
        let token = |id: usize| {
            json!({
                "id": id, "content": self.tokens[id], "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": special.contains(&id)
            })
        };
        Ok(spelled.filter(|id| !self.tokens[*id].is_empty()).map(token).collect())
    }

    /// The merges of the file.
    fn merges(&self) -> Result<Option<Vec<[&'a str; 2]>>, ModelError> {
        let Some(lines) = self.file.metadata.texts(&self.file.reader(), MERGES)? else { return Ok(None) };
        let pair = |(number, line): (usize, &&'a str)| match line.split(' ').collect::<Vec<_>>()[..] {
            [left, right] => Ok([left, right]),
            _ => {
                let found = format!("{line:?} in place {number}");
                Err(self.file.metadata.wrong(MERGES, "two tokens with a space between them", found))
            }
        };
        lines.iter().enumerate().map(pair).collect::<Result<Vec<_>, _>>().map(Some)
    }

    /// Pairs of bytes that are spelled as letters.
    fn byte_level(&self) -> Result<Value, ModelError> {
        let metadata = &self.file.metadata;
        let name = metadata.text(PIECES)?;
        if matches!(name.as_deref(), None | Some("default")) {
            tracing::warn!(
                "{}: key `{PIECES}` does not say how the tokenizer cuts texts: they are cut as GPT-2's are",
                self.file.path().display()
            );
        }
        let name = name.unwrap_or_else(|| "default".to_owned());
        let cut = pieces::named(&name).ok_or_else(|| {
            metadata.wrong(PIECES, format!("a way to cut texts that is known: {}", pieces::names()), &name)
        })?;
        if metadata.flag(PREFIX)? == Some(true) {
            return Err(metadata.wrong(PREFIX, "false (the only value supported for gpt2)", "true"));
        }
        let merges = self.merges()?.ok_or_else(|| metadata.wrong(MERGES, "a list of texts", "nothing"))?;
        let alphabet = alphabet();
        let letters: BTreeSet<char> = alphabet.iter().copied().collect();
        let mut entries = Map::new();
        for (id, token) in self.tokens.iter().enumerate() {
            let spelled = token.chars().all(|letter| letters.contains(&letter)) || self.kind(id) != 1;
            let entry = match spelled {
                true => (*token).to_owned(),
                false => token.bytes().map(|byte| alphabet[byte as usize]).collect(),
            };
            entries.insert(entry, id.into());
        }
        let decoder = json!({ "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true });
        let model = json!({
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": "", "end_of_word_suffix": "",
            "fuse_unk": false, "byte_fallback": false, "ignore_merges": cut.whole_pieces, "vocab": entries,
            "merges": merges
        });
        self.around(cut.normalizer, cut.pre_tokenizer, decoder, model)
    }

    /// Pairs of letters, the best-scored first; letters that are no token fall back to their bytes.
    fn sentence_piece(&self) -> Result<Value, ModelError> {
        let merges = match self.merges()? {
            Some(merges) => merges,
            None => self.implied_merges()?,
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
        let unknown = self.id("unknown_token_id")?.map(|id| self.tokens[id]);
        let model = json!({
            "type": "BPE", "dropout": null, "unk_token": unknown, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
            "vocab": entries, "merges": merges
        });
        self.around(Value::Null, pre_tokenizer, json!({ "type": "Sequence", "decoders": decoders }), model)
    }

    /// Every way to put a token together from two others, by the token's score.
    fn implied_merges(&self) -> Result<Vec<[&'a str; 2]>, ModelError> {
        let number = |value: &Value| value.as_f64().map(|score| score as f32);
        let scores = self.file.metadata.values(&self.file.reader(), SCORES, self.tokens.len(), number)?;
        let scores = scores.ok_or_else(|| self.file.metadata.wrong(SCORES, "a number per token", "nothing"))?;
        let ids: HashMap<&str, usize> = self.tokens.iter().enumerate().map(|(id, token)| (*token, id)).collect();
        let mut merges: Vec<(f32, [usize; 2], [&str; 2])> = Vec::new();
        for (id, token) in self.tokens.iter().enumerate().filter(|(id, token)| ids[**token] == *id) {
            let places = token.char_indices().skip(1).map(|(place, _)| token.split_at(place));
            let pairs = places.filter(|(left, right)| ids.contains_key(left) && ids.contains_key(right));
            let mut pairs: Vec<(&str, &str)> = pairs.collect();
            pairs.sort_by_key(|(left, right)| (ids[left], ids[right]));
            let lengths = |left: &str, right: &str| [left.chars().count(), right.chars().count()];
            merges.extend(pairs.iter().map(|(left, right)| (scores[id], lengths(left, right), [*left, *right])));
        }
        // The longer left part first where scores are equal, as the library orders them.
        merges.sort_by(|a, b| b.0.partial_cmp(&a.0).unwrap_or(Ordering::Equal).then(b.1.cmp(&a.1)));
        Ok(merges.into_iter().map(|(_, _, pair)| pair).collect())
    }

    fn around(
        &self,
        normalizer: Value,
        pre_tokenizer: Value,
        decoder: Value,
        model: Value,
    ) -> Result<Value, ModelError> {
        Ok(json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": self.added()?,
            "normalizer": normalizer, "pre_tokenizer": pre_tokenizer, "post_processor": null, "decoder": decoder,
            "model": model
        }))
    }

    /// What the files beside a tokenizer say about its special tokens.
    fn token_files(&self, config: &ConfigFile, sentence_piece: bool) -> Result<TokenFiles, ModelError> {
        let metadata = &self.file.metadata;
        let (mut fields, mut keys) = (Map::new(), HashMap::<String, StoredKey>::new());
        for (name, role) in IDS {
            if let (Some(id), Some(role)) = (self.id(name)?, role) {
                fields.insert(role.to_owned(), self.tokens[id].into());
                keys.insert(role.to_owned(), metadata.stored_key(&format!("{START}{name}")));
            }
        }
        // Files of SentencePiece's that are older than the flag mean yes.
        fields.insert("add_bos_token".to_owned(), metadata.flag(OPENING)?.unwrap_or(sentence_piece).into());
        keys.insert("add_bos_token".to_owned(), metadata.stored_key(OPENING));
        let own = ConfigFile::translated(self.file.path(), fields, keys);
        Ok(TokenFiles::assembled(own, config.clone()))
    }
}

/// The letter that stands for each byte: printable ones for themselves, the others from 256 on (GPT-2).
fn alphabet() -> Vec<char> {
    let printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let mut others = '\u{100}'..;
    let letter = |byte: u8| if printable(byte) { Some(char::from(byte)) } else { others.next() };
    (0..=u8::MAX).filter_map(letter).collect()
}
