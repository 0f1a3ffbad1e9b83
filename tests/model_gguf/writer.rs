//! GGUF files for tests: a fixture taken apart, changed, and written again.

use std::path::Path;

/// Numbers of value types.
pub const U32: u32 = 4;
pub const I32: u32 = 5;
pub const F32: u32 = 6;
pub const FLAG: u32 = 7;
pub const TEXT: u32 = 8;
pub const LIST: u32 = 9;
pub const U64: u32 = 10;

/// A tensor as the file has it.
#[derive(Debug, Clone)]
pub struct Tensor {
    pub name: String,
    /// The width of a row first.
    pub sides: Vec<u64>,
    pub kind: u32,
    /// Instead of the right one.
    pub offset: Option<u64>,
    pub bytes: Vec<u8>,
}

/// A file in its parts; of values, the type and the bytes.
#[derive(Debug, Clone)]
pub struct Gguf {
    pub version: u32,
    pub keys: Vec<(String, Vec<u8>)>,
    pub tensors: Vec<Tensor>,
}

/// The bytes of a file that was written by the `gguf` package: they can be believed.
struct Bytes<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Bytes<'_> {
    fn take(&mut self, count: usize) -> Vec<u8> {
        self.at += count;
        self.bytes[self.at - count..self.at].to_vec()
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take(4).try_into().unwrap())
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take(8).try_into().unwrap())
    }

    fn text(&mut self) -> String {
        let length = self.u64() as usize;
        String::from_utf8(self.take(length)).unwrap()
    }

    /// Steps over a value of a type.
    fn skip(&mut self, kind: u32) {
        let size = [1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8][kind as usize];
        match kind {
            TEXT => drop(self.text()),
            LIST => {
                let (kind, count) = (self.u32(), self.u64());
                (0..count).for_each(|_| self.skip(kind));
            }
            _ => self.at += size,
        }
    }
}

impl Gguf {
    pub fn read(path: &Path) -> Self {
        let bytes = std::fs::read(path).unwrap();
        let mut file = Bytes { bytes: &bytes, at: 4 };
        let (version, n_tensors, n_keys) = (file.u32(), file.u64(), file.u64());
        let mut keys = Vec::new();
        for _ in 0..n_keys {
            let (key, start) = (file.text(), file.at);
            let kind = file.u32();
            file.skip(kind);
            keys.push((key, bytes[start..file.at].to_vec()));
        }
        let mut described = Vec::new();
        for _ in 0..n_tensors {
            let name = file.text();
            let dimensions = file.u32();
            let sides: Vec<u64> = (0..dimensions).map(|_| file.u64()).collect();
            described.push((name, sides, file.u32(), file.u64() as usize));
        }
        let data = file.at.next_multiple_of(32);
        let mut tensors = Vec::new();
        for (number, (name, sides, kind, offset)) in described.iter().enumerate() {
            let end = described.get(number + 1).map_or(bytes.len() - data, |next| next.3);
            let bytes = bytes[data + offset..data + end].to_vec();
            tensors.push(Tensor { name: name.clone(), sides: sides.clone(), kind: *kind, offset: None, bytes });
        }
        Self { version, keys, tensors }
    }

    /// Sets a key, in its place or at the end.
    pub fn set(&mut self, key: &str, kind: u32, value: &[u8]) {
        let bytes = [&kind.to_le_bytes(), value].concat();
        match self.keys.iter_mut().find(|(known, _)| known == key) {
            Some((_, value)) => *value = bytes,
            None => self.keys.push((key.to_owned(), bytes)),
        }
    }

    pub fn text(&mut self, key: &str, value: &str) {
        self.set(key, TEXT, &text(value));
    }

    pub fn number(&mut self, key: &str, value: u32) {
        self.set(key, U32, &value.to_le_bytes());
    }

    pub fn flag(&mut self, key: &str, value: bool) {
        self.set(key, FLAG, &[u8::from(value)]);
    }

    pub fn remove(&mut self, key: &str) {
        self.keys.retain(|(known, _)| known != key);
    }

    /// Gives a token of the vocabulary another name.
    pub fn rename_token(&mut self, from: &str, to: &str) {
        let (_, value) = self.keys.iter_mut().find(|(key, _)| key == "tokenizer.ggml.tokens").unwrap();
        let mut file = Bytes { bytes: value, at: 8 };
        let tokens: Vec<String> = (0..file.u64()).map(|_| file.text()).collect();
        assert!(tokens.iter().any(|token| token == from), "{from}");
        let renamed: Vec<&str> = tokens.iter().map(|token| if token == from { to } else { token }).collect();
        self.set("tokenizer.ggml.tokens", LIST, &texts(&renamed));
    }

    /// Adds a vector at the end.
    pub fn add(&mut self, name: &str, values: &[f32]) {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let sides = vec![values.len() as u64];
        self.tensors.push(Tensor { name: name.to_owned(), sides, kind: 0, offset: None, bytes });
    }

    pub fn tensor(&mut self, name: &str) -> &mut Tensor {
        self.tensors.iter_mut().find(|tensor| tensor.name == name).unwrap()
    }

    /// The whole file, and where the value of every key and the description of every tensor begins.
    pub fn bytes(&self) -> (Vec<u8>, Vec<(String, usize)>) {
        let mut bytes = b"GGUF".to_vec();
        let mut places = Vec::new();
        bytes.extend(self.version.to_le_bytes());
        bytes.extend((self.tensors.len() as u64).to_le_bytes());
        bytes.extend((self.keys.len() as u64).to_le_bytes());
        for (key, value) in &self.keys {
            bytes.extend(text(key));
            places.push((key.clone(), bytes.len()));
            bytes.extend(value);
        }
        let mut next = 0;
        for Tensor { name, sides, kind, offset, bytes: data } in &self.tensors {
            places.push((name.clone(), bytes.len()));
            bytes.extend(text(name));
            bytes.extend((sides.len() as u32).to_le_bytes());
            sides.iter().for_each(|side| bytes.extend(side.to_le_bytes()));
            bytes.extend(kind.to_le_bytes());
            bytes.extend(offset.unwrap_or(next).to_le_bytes());
            next += (data.len() as u64).next_multiple_of(32);
        }
        for Tensor { bytes: data, .. } in &self.tensors {
            bytes.resize(bytes.len().next_multiple_of(32), 0);
            bytes.extend(data);
        }
        (bytes, places)
    }

    pub fn write(&self, path: &Path) {
        std::fs::write(path, self.bytes().0).unwrap();
    }
}

/// A text behind its length.
pub fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

/// A list of texts.
pub fn texts(list: &[&str]) -> Vec<u8> {
    let start = [TEXT.to_le_bytes().to_vec(), (list.len() as u64).to_le_bytes().to_vec()].concat();
    start.into_iter().chain(list.iter().flat_map(|entry| text(entry))).collect()
}
