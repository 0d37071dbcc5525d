//! Questions and passages as windows of tokens, and the answer that scores of its first and last token speak for.
//!
//! A passage too long to stand beside its question is read in windows that overlap, each with the whole question. An answer
//! is a stretch of one window; of several windows the best stretch counts (the procedure of BERT, arXiv 1810.04805).

use std::cmp::Ordering;
use std::ops::Range;

use crate::error::{Error, Result};
use crate::text::Tokenizer;

/// Most tokens of a question, fewer where a window is short; what is beyond is cut.
pub const MAX_QUESTION: usize = 64;
/// Fewest tokens of a passage that a window must have room for.
const MIN_ROOM: usize = 8;
/// Answers that are kept, of each window and in all.
const N_BEST: usize = 20;
/// Most tokens of an answer.
const MAX_ANSWER: usize = 30;

/// Cuts passages into windows.
#[derive(Debug)]
pub struct Reader {
    tokenizer: Tokenizer,
    max_len: usize,
    overlap: usize,
}

/// A question and a part of its passage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    /// Token ids, special ones included.
    pub ids: Vec<u32>,
    /// Segment of each token.
    pub types: Vec<u32>,
    /// Tokens of the question, and how many more were cut.
    pub question: [usize; 2],
    /// Number of the passage's first token.
    pub first: usize,
    /// Byte range in the passage of each of its tokens.
    pub spans: Vec<Range<usize>>,
}

/// A stretch of the passage that may be the answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// Byte range in the passage.
    pub range: Range<usize>,
    /// Sum of the scores of its first and last token.
    pub score: f32,
    /// Its chance among the stretches that were kept.
    pub probability: f32,
}

impl Reader {
    /// Windows of at most `max_len` tokens, of which neighbours share `overlap`; fails with `tokenizer.max_length` where
    /// a part of a passage would not fit beside a question of one token.
    pub fn new(mut tokenizer: Tokenizer, max_len: usize, overlap: usize) -> Result<Self> {
        tokenizer.set_max_length(None)?;
        let added = tokenizer.added(true);
        if max_len <= added + MIN_ROOM {
            return Err(Error::max_length(max_len, added));
        }
        Ok(Reader { tokenizer, max_len, overlap })
    }

    /// The windows of a passage, none where it has no token; fails as [`Tokenizer::encode_pairs`] does.
    pub fn windows(&self, question: &str, passage: &str) -> Result<Vec<Window>> {
        let whole = self.tokenizer.encode_pairs(&[(question, passage)])?.pop().unwrap_or_default();
        let words = |i: usize, of: u8| whole.sequence_ids[i] == Some(of);
        let n = whole.ids.len();
        let Some(first) = (0..n).find(|i| words(*i, 1)) else { return Ok(Vec::new()) };
        let end = (first..n).find(|i| !words(*i, 1)).unwrap_or(n);
        let asked: Vec<usize> = (0..first).filter(|i| words(*i, 0)).collect();
        let others = first - asked.len() + n - end;
        let most = MAX_QUESTION.min(self.max_len.saturating_sub(others + MIN_ROOM));
        let cut = asked.get(most).copied();
        let question = [asked.len().min(most), asked.len().saturating_sub(most)];
        let before: Vec<usize> = (0..first).filter(|i| !words(*i, 0) || cut.is_none_or(|c| *i < c)).collect();
        let room = (self.max_len - MIN_ROOM).saturating_sub(before.len() + n - end) + MIN_ROOM;
        let step = room - self.overlap.min(room / 2);
        let mut out = Vec::new();
        let mut from = first;
        loop {
            let to = end.min(from + room);
            let places = || before.iter().copied().chain(from..to).chain(end..n);
            out.push(Window {
                ids: places().map(|i| whole.ids[i]).collect(),
                types: places().map(|i| whole.type_ids[i]).collect(),
                question,
                first: before.len(),
                spans: whole.offsets[from..to].iter().map(|(a, b)| *a..*b).collect(),
            });
            if to == end {
                return Ok(out);
            }
            from += step;
        }
    }
}

impl Window {
    /// Numbers of the first and last token of a stretch of the passage; `None` where it is not wholly in the window.
    pub fn place(&self, stretch: &Range<usize>) -> Option<[u32; 2]> {
        let first = self.spans.iter().position(|s| s.end > stretch.start)?;
        let last = self.spans.iter().rposition(|s| s.start < stretch.end)?;
        let inside = self.spans[first].start <= stretch.start && self.spans[last].end >= stretch.end && first <= last;
        inside.then(|| [(self.first + first) as u32, (self.first + last) as u32])
    }

    /// Adds the likeliest stretches of this window. Shapes: scores of first and last tokens `[tokens]` each.
    fn stretches(&self, scores: [&[f32]; 2], out: &mut Vec<Found>) {
        let own = |scores: &[f32]| scores.iter().skip(self.first).take(self.spans.len()).copied().collect::<Vec<f32>>();
        let (firsts, lasts) = (own(scores[0]), own(scores[1]));
        let mut all = Vec::with_capacity(firsts.len() * MAX_ANSWER);
        for (start, a) in firsts.iter().enumerate() {
            let ends = lasts.iter().enumerate().skip(start).take(MAX_ANSWER);
            all.extend(ends.map(|(end, b)| (start, end, a + b)));
        }
        all.sort_by(|a, b| b.2.total_cmp(&a.2).then((a.0, a.1).cmp(&(b.0, b.1))));
        for (start, end, score) in all.into_iter().take(N_BEST) {
            out.push(Found { range: self.spans[start].start..self.spans[end].end, score, probability: 0.0 });
        }
    }
}

/// The likeliest stretches of a passage, best first; scores are those of each window's tokens as first and as last.
pub fn best<'a>(windows: impl IntoIterator<Item = (&'a Window, [&'a [f32]; 2])>) -> Vec<Found> {
    let mut all = Vec::new();
    windows.into_iter().for_each(|(window, scores)| window.stretches(scores, &mut all));
    let order = |a: &Found, b: &Found| -> Ordering {
        b.score.total_cmp(&a.score).then((a.range.start, a.range.end).cmp(&(b.range.start, b.range.end)))
    };
    all.sort_by(order);
    let mut seen = std::collections::HashSet::new();
    all.retain(|f| seen.insert((f.range.start, f.range.end)));
    all.truncate(N_BEST);
    let top = all.first().map_or(0.0, |f| f.score);
    let total: f32 = all.iter().map(|f| (f.score - top).exp()).sum();
    all.iter_mut().for_each(|f| f.probability = (f.score - top).exp() / total);
    all
}
