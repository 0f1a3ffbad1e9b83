//! Which token stands where in a ragged batch.

use crate::backend::AttentionRow;

/// The computed tokens of a batch: row `r` covers positions `starts[r] .. lens[r]`, rows stand behind each other.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Layout {
    starts: Vec<usize>,
    lens: Vec<usize>,
    offsets: Vec<usize>,
}

impl Layout {
    /// Rows given as (first computed position, length).
    pub fn new(rows: impl IntoIterator<Item = (usize, usize)>) -> Self {
        let mut layout = Layout { offsets: vec![0], ..Layout::default() };
        for (start, len) in rows {
            layout.starts.push(start);
            layout.lens.push(len);
            layout.offsets.push(layout.n_tokens() + len - start);
        }
        layout
    }

    /// All tokens of whole sequences.
    pub fn whole<'s>(sequences: impl IntoIterator<Item = &'s Vec<u32>>) -> Self {
        Self::new(sequences.into_iter().map(|sequence| (0, sequence.len())))
    }

    /// Number of rows.
    pub fn n_rows(&self) -> usize {
        self.lens.len()
    }

    /// Number of computed tokens.
    pub fn n_tokens(&self) -> usize {
        self.offsets.last().copied().unwrap_or(0)
    }

    /// Length of a row, positions that are not computed included.
    pub fn len(&self, row: usize) -> usize {
        self.lens[row]
    }

    /// Are there no rows?
    pub fn is_empty(&self) -> bool {
        self.lens.is_empty()
    }

    /// First computed position of a row.
    pub fn start(&self, row: usize) -> usize {
        self.starts[row]
    }

    /// Where position `position` of row `row` stands among the tokens, if it is computed.
    pub fn token(&self, row: usize, position: usize) -> Option<usize> {
        let inside = *self.starts.get(row)? <= position && position < self.lens[row];
        inside.then(|| self.offsets[row] + position - self.starts[row])
    }

    /// (row, position) of a token: the inverse of [`Layout::token`].
    pub(crate) fn place(&self, token: usize) -> (usize, usize) {
        let row = self.offsets.partition_point(|&offset| offset <= token).saturating_sub(1);
        (row, token - self.offsets[row] + self.starts[row])
    }

    /// Every token's position, row after row.
    pub fn positions(&self) -> Vec<u32> {
        (0..self.n_rows()).flat_map(|row| self.starts[row] as u32..self.lens[row] as u32).collect()
    }

    /// Every row's last token.
    pub fn last_tokens(&self) -> Vec<u32> {
        (0..self.n_rows()).map(|row| self.offsets[row + 1] as u32 - 1).collect()
    }

    /// The rows of this batch's attention: all tokens ask, or only the last of every row.
    ///
    /// `prefix_offsets[r]` is where row `r`'s captured keys start.
    pub(crate) fn attention_rows(
        &self,
        prefix_offsets: &[usize],
        n_heads: usize,
        last_only: bool,
    ) -> Vec<AttentionRow> {
        let mut pattern_start = 0;
        (0..self.n_rows())
            .map(|row| {
                let n_keys = self.offsets[row + 1] - self.offsets[row];
                let n_queries = if last_only { 1 } else { n_keys };
                let attention_row = AttentionRow {
                    query_start: if last_only { row } else { self.offsets[row] },
                    n_queries,
                    key_start: self.offsets[row],
                    n_keys,
                    prefix_start: prefix_offsets.get(row).copied().unwrap_or(0),
                    n_prefix: self.starts[row],
                    pattern_start,
                };
                pattern_start += n_heads * n_queries * self.lens[row];
                attention_row
            })
            .collect()
    }

    /// Values in a pattern buffer of this batch when all tokens ask.
    pub(crate) fn pattern_len(&self, n_heads: usize) -> usize {
        (0..self.n_rows()).map(|row| n_heads * (self.lens[row] - self.starts[row]) * self.lens[row]).sum()
    }

    /// Where the probabilities of (row, head, query position) start, and how many keys there are.
    pub(crate) fn pattern_span(&self, row: usize, head: usize, position: usize, n_heads: usize) -> (usize, usize) {
        let before: usize = (0..row).map(|r| n_heads * (self.lens[r] - self.starts[r]) * self.lens[r]).sum();
        let n_queries = self.lens[row] - self.starts[row];
        (before + (head * n_queries + position - self.starts[row]) * self.lens[row], self.lens[row])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_stand_row_after_row() {
        let layout = Layout::new([(0, 3), (4, 6), (2, 5)]);
        assert_eq!(layout.n_tokens(), 8);
        assert_eq!(layout.token(0, 2), Some(2));
        assert_eq!(layout.token(1, 3), None);
        assert_eq!(layout.token(1, 4), Some(3));
        assert_eq!(layout.token(2, 4), Some(7));
        assert_eq!(layout.token(2, 5), None);
        assert_eq!(layout.token(3, 0), None);
        assert_eq!(layout.place(3), (1, 4));
        assert_eq!(layout.place(7), (2, 4));
        assert_eq!(layout.positions(), [0, 1, 2, 4, 5, 2, 3, 4]);
        assert_eq!(layout.last_tokens(), [2, 4, 7]);
        let rows = layout.attention_rows(&[0, 10, 20], 2, false);
        assert_eq!((rows[1].n_prefix, rows[1].n_keys, rows[1].prefix_start, rows[1].pattern_start), (4, 2, 10, 18));
        assert_eq!(layout.pattern_len(2), 2 * (9 + 12 + 15));
        assert_eq!(layout.pattern_span(1, 1, 5, 2), (18 + 3 * 6, 6));
    }
}
