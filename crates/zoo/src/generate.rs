//! Writing text: one token per member and step, until each member ends.

use switchformer_nn::{Ctx, Error, Input, Point, Result, Taps, Trace};

use crate::open::Opened;

/// Most tokens that one call writes per member.
pub const MAX_WRITTEN: usize = 1 << 14;

impl Opened {
    /// The likeliest continuation, token by token, of at most `max_tokens` per member; a token that ends the text is
    /// kept. Members that ended leave the batch. Errors where the model does not write, or where the point asks for
    /// rules between blocks, which steps do not run.
    pub fn generate(&self, point: &Point, source: &Input, max_tokens: usize) -> Result<(Vec<Vec<u32>>, Trace)> {
        let Some(decoder) = self.model.decoder() else {
            return Err(Error::input("this model writes no text", "open one for conditional generation, such as t5"));
        };
        if !(1..=MAX_WRITTEN).contains(&max_tokens) {
            return Err(Error::input(format!("{max_tokens} tokens to write"), format!("1 to {MAX_WRITTEN}")));
        }
        if !self.switches.rules(point)?.is_empty() {
            return Err(Error::point("generation runs every block on every token", "set `bits` alone, or nothing"));
        }
        let (mut taps, mut trace) = (Taps::none(), Trace::default());
        let mut cx = Ctx::new(point, &mut taps, &mut trace);
        let mut cache = decoder.begin(&mut cx, source)?;
        let mut written = vec![Vec::new(); source.n()];
        let mut tokens = vec![decoder.start(); source.n()];
        for _ in 0..max_tokens {
            if tokens.is_empty() {
                break;
            }
            let logits = decoder.step(&mut cx, &mut cache, &tokens)?;
            tokens = logits.to_vec2::<f32>()?.iter().map(|row| likeliest(row)).collect();
            for (member, token) in cache.written.members().iter().zip(&tokens) {
                written[*member as usize].push(*token);
            }
            let on: Vec<usize> = (0..tokens.len()).filter(|i| !decoder.ends().contains(&tokens[*i])).collect();
            if on.len() < tokens.len() {
                cache.select(&on)?;
                tokens = on.iter().map(|i| tokens[*i]).collect();
            }
        }
        Ok((written, trace))
    }
}

/// The first of the largest.
fn likeliest(row: &[f32]) -> u32 {
    let best =
        row.iter().enumerate().fold((0, f32::NEG_INFINITY), |best, (i, v)| if *v > best.1 { (i, *v) } else { best });
    best.0 as u32
}
