//! A block's shared memory, and who may look at it: a word that was written since the last barrier belongs to the thread
//! that wrote it.

/// A thread's number in its block.
pub type Thread = u16;

/// Several threads, or all of a warp.
pub const SEVERAL: Thread = Thread::MAX;
const NOBODY: Thread = Thread::MAX - 1;

/// What is known of four bytes. Barriers are counted; 0 is before the first.
#[derive(Debug, Clone, Copy)]
struct Word {
    value: u32,
    written: u32,
    read: u32,
    writer: Thread,
    reader: Thread,
    /// Whose asynchronous copy is on its way here.
    copier: Thread,
}

#[derive(Debug)]
pub struct Shared {
    words: Vec<Word>,
    /// The count of barriers at the block's start, and now.
    start: u32,
    now: u32,
}

impl Default for Shared {
    fn default() -> Self {
        Self { words: Vec::new(), start: 1, now: 1 }
    }
}

impl Shared {
    /// Memory for the next block, nothing of it written.
    pub fn begin(&mut self, bytes: usize) {
        let fresh = Word { value: 0, written: 0, read: 0, writer: NOBODY, reader: NOBODY, copier: NOBODY };
        self.words.resize(bytes.div_ceil(4), fresh);
        self.now += 1;
        self.start = self.now;
    }

    pub fn barrier(&mut self) {
        self.now += 1;
    }

    pub fn bytes(&self) -> usize {
        4 * self.words.len()
    }

    fn word(&mut self, address: u64) -> Result<&mut Word, String> {
        let bytes = self.bytes();
        let word = self.words.get_mut(address as usize / 4);
        word.ok_or_else(|| format!("shared address {address:#x}, there are {bytes} bytes"))
    }

    /// Reads a word whose address is a multiple of 4.
    pub fn read(&mut self, address: u64, thread: Thread) -> Result<u32, String> {
        let (start, now) = (self.start, self.now);
        let word = self.word(address)?;
        if word.copier != NOBODY {
            return Err(format!("shared address {address:#x} is read before its asynchronous copy was waited for"));
        }
        if word.written < start {
            return Err(format!("shared address {address:#x} is read and was never written"));
        }
        if word.written == now && word.writer != thread {
            let writer = word.writer;
            return Err(format!("race: thread {writer} wrote shared address {address:#x} since the last barrier"));
        }
        if word.read != now {
            (word.read, word.reader) = (now, thread);
        } else if word.reader != thread {
            word.reader = SEVERAL;
        }
        Ok(word.value)
    }

    /// May the thread change the word now?
    fn own(&mut self, address: u64, thread: Thread) -> Result<&mut Word, String> {
        let now = self.now;
        let word = self.word(address)?;
        if word.copier != NOBODY {
            return Err(format!("shared address {address:#x} is written while an asynchronous copy goes there"));
        }
        if word.written == now && word.writer != thread {
            let writer = word.writer;
            return Err(format!("race: thread {writer} wrote shared address {address:#x} since the last barrier, too"));
        }
        if word.read == now && word.reader != thread {
            return Err(format!("race: another thread has read shared address {address:#x} since the last barrier"));
        }
        Ok(word)
    }

    pub fn write(&mut self, address: u64, value: u32, thread: Thread) -> Result<(), String> {
        let now = self.now;
        let word = self.own(address, thread)?;
        (word.value, word.written, word.writer) = (value, now, thread);
        Ok(())
    }

    /// An asynchronous copy starts: from now on its value may arrive at any time.
    pub fn begin_copy(&mut self, address: u64, thread: Thread) -> Result<(), String> {
        self.own(address, thread)?.copier = thread;
        Ok(())
    }

    /// The copy's thread has waited for it: as if it had just written the word.
    pub fn end_copy(&mut self, address: u64, value: u32, thread: Thread) -> Result<(), String> {
        self.word(address)?.copier = NOBODY;
        self.write(address, value, thread)
    }
}
