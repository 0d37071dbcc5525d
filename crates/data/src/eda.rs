//! Variations of a text for training: words swapped, left out, or put in a second time somewhere else.
//!
//! After "EDA: Easy Data Augmentation", arXiv 1901.11196, without its synonyms, which need a thesaurus: what is put in is
//! another word of the same text. One of the three is done to each variation. The answer of a question stays whole.

use std::ops::Range;

use switchformer_format::Rng;

/// Share of the words that a variation touches.
const SHARE: f64 = 0.1;

/// A word, or the stretch around an answer, which counts as one.
#[derive(Clone, Copy)]
struct Word<'a> {
    text: &'a str,
    held: bool,
}

/// A variation of a text.
pub fn vary(text: &str, rng: &mut Rng) -> String {
    join(&varied(words(text).collect(), rng)).0
}

/// A variation of a text around a stretch that stays, and where that is then. A stretch that is not of this text is moved
/// to its end.
pub fn vary_around(text: &str, stretch: &Range<usize>, rng: &mut Rng) -> (String, Range<usize>) {
    let (start, end) = (text.floor_char_boundary(stretch.start), text.floor_char_boundary(stretch.end));
    let (start, end) = (start.min(end), end);
    // Words that the stretch begins or ends in belong to it.
    let from = text[..start].char_indices().rev().find(|(_, c)| c.is_whitespace()).map_or(0, |(i, c)| i + c.len_utf8());
    let to = end + text[end..].find(char::is_whitespace).unwrap_or(text.len() - end);
    let held = Word { text: &text[from..to], held: true };
    let all = words(&text[..from]).chain([held]).chain(words(&text[to..])).collect();
    let (varied, at) = join(&varied(all, rng));
    (varied, at + start - from..at + end - from)
}

fn words(text: &str) -> impl Iterator<Item = Word<'_>> {
    text.split_whitespace().map(|text| Word { text, held: false })
}

fn varied<'a>(mut words: Vec<Word<'a>>, rng: &mut Rng) -> Vec<Word<'a>> {
    let free: Vec<usize> = (0..words.len()).filter(|i| !words[*i].held).collect();
    if free.len() < 2 {
        return words;
    }
    let pick = |rng: &mut Rng| free[rng.pick(free.len() as u32) as usize];
    let times = ((SHARE * free.len() as f64).round() as usize).max(1);
    match rng.pick(3) {
        0 => (0..times).for_each(|_| {
            let (a, b) = (pick(rng), pick(rng));
            words.swap(a, b);
        }),
        1 => {
            let stays = pick(rng);
            let mut i = 0;
            words.retain(|w| {
                i += 1;
                w.held || i - 1 == stays || rng.unit64() >= SHARE
            });
        }
        _ => {
            for _ in 0..times {
                let word = words[pick(rng)];
                // What was put in has moved words; the stretch that stays is never doubled.
                if !word.held {
                    words.insert(rng.pick(words.len() as u32 + 1) as usize, word);
                }
            }
        }
    }
    words
}

/// The text of words, and where the one that stays begins.
fn join(words: &[Word]) -> (String, usize) {
    let (mut text, mut at) = (String::new(), 0);
    for word in words {
        if !text.is_empty() {
            text.push(' ');
        }
        if word.held {
            at = text.len();
        }
        text.push_str(word.text);
    }
    (text, at)
}
