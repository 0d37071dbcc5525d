//! Two stacks of blocks, one that reads a text and one that writes another: the streams of the two along one chain of
//! blocks (decision 11), for families that differ in what their blocks do.

use switchformer_nn::layers::Embedding;
use switchformer_nn::{Ctx, Ids, Input, Output, Result, Rows, Side, State, Stream, Tensor, Weights};

/// The one word table of both stacks, under whichever of its names the writer of a file kept: that of a stack, or of the head
/// where that is tied. Errors where a stack has another one.
pub(crate) fn shared_table(w: &Weights, vocab: usize, dim: usize, tied: bool) -> Result<Embedding> {
    let stacks = ["encoder.embed_tokens.weight", "decoder.embed_tokens.weight"];
    for other in stacks.into_iter().chain(tied.then_some("lm_head.weight")) {
        w.stored_as("shared.weight", other);
    }
    let table = w.embedding("shared", vocab, dim)?;
    for copy in stacks {
        let or = "every table of the family is that one; remove from the file the one that is not meant";
        w.repeats(copy, "shared.weight", or)?;
    }
    Ok(table)
}

/// One of the two stacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stack {
    Encoder,
    Decoder,
}

/// What a family's stacks compute. The chain is blocks `0..E` that read, then those that write; block `E` changes streams.
pub(crate) trait Seq2Seq {
    /// Blocks that read.
    fn encoder_depth(&self) -> usize;
    /// Blocks that write; `None` where the encoder stands alone.
    fn decoder_depth(&self) -> Option<usize>;
    /// Tokens at their places in a text. Shapes: ids and positions `[rows]` -> `[rows, dim]`.
    fn embed(&self, stack: Stack, ids: &[u32], positions: &[u32]) -> Result<Tensor>;
    /// Block `i` of the encoder. Shapes: x `[rows, dim]` -> the same.
    fn read(&self, cx: &mut Ctx, i: usize, x: &Tensor, rows: &Rows) -> Result<Tensor>;
    /// What becomes of rows that were read by all blocks.
    fn finish_reading(&self, x: Tensor) -> Result<Tensor>;
    /// Block `i` of the decoder. Shapes: x `[rows, dim]` -> the same.
    fn write(&self, cx: &mut Ctx, i: usize, x: &Tensor, rows: &Rows, source: Option<&Stream>) -> Result<Tensor>;

    /// The token behind which the decoder reads the source once more, where it writes no text of its own.
    fn echoes_behind(&self) -> Option<u32> {
        None
    }

    /// [`switchformer_nn::Staged::n_blocks`].
    fn blocks_of_both(&self) -> usize {
        self.encoder_depth() + self.decoder_depth().unwrap_or(0)
    }

    /// [`switchformer_nn::Staged::first_exit`].
    fn first_written(&self) -> usize {
        self.decoder_depth().map_or(1, |_| self.encoder_depth() + 1)
    }

    /// [`switchformer_nn::Staged::resume`].
    fn goes_on(&self) -> Option<usize> {
        self.decoder_depth().map(|_| self.encoder_depth())
    }

    /// [`switchformer_nn::Staged::stem`]: the text to read, and the one being written, where the architecture writes.
    fn stem_of(&self, cx: &mut Ctx, input: &Input) -> Result<State> {
        let stream = |stack, text: &Ids, rows: Rows| -> Result<Stream> {
            Ok(Stream { x: self.embed(stack, &text.ids, rows.positions())?, rows })
        };
        let text = input.ids("input_ids")?;
        let mut rows = placed(text)?;
        if let Some(memory) = cx.memory.as_deref_mut().filter(|m| !m.is_empty()) {
            let Stream { x, rows } = stream(Stack::Decoder, text, memory.place(&rows)?)?;
            return Ok(State::new(x, rows));
        }
        let mut side = Side::default();
        if let Some(start) = self.echoes_behind() {
            let ids = shifted(text, start);
            side.push("target", Stream { x: self.embed(Stack::Decoder, &ids, rows.positions())?, rows: rows.clone() });
        } else if self.decoder_depth().is_some() {
            let target = input.ids("decoder_input_ids")?;
            let mut own = placed(target)?;
            if let Some(memory) = &mut cx.memory {
                own = memory.place(&own)?;
                rows = rows.of_members(own.members())?;
            }
            side.push("target", stream(Stack::Decoder, target, own)?);
        }
        let Stream { x, rows } = stream(Stack::Encoder, text, rows)?;
        Ok(State { x, rows, side })
    }

    /// [`switchformer_nn::Staged::block`].
    fn block_of(&self, cx: &mut Ctx, idx: usize, state: State) -> Result<State> {
        let State { mut x, mut rows, mut side } = state;
        let Some(i) = self.decoder_depth().and_then(|_| idx.checked_sub(self.encoder_depth())) else {
            return Ok(State { x: self.read(cx, idx, &x, &rows)?, rows, side });
        };
        // The rows are the decoder's already on a later lap, and where a pass goes on with a text.
        if i == 0 && (side.get("target").is_some() || (cx.memory.is_none() && side.get("source").is_none())) {
            let target = side.take("target")?;
            side.push("source", Stream { x: self.finish_reading(x)?, rows });
            (x, rows) = (target.x, target.rows);
        }
        Ok(State { x: self.write(cx, i, &x, &rows, side.get("source"))?, rows, side })
    }
}

/// Positions are the columns of the padded tensor, so that gaps keep their distance.
fn placed(text: &Ids) -> Result<Rows> {
    text.rows.clone().at_positions(&text.columns)
}

/// Every text behind a token, without its last one.
fn shifted(text: &Ids, start: u32) -> Vec<u32> {
    let mut out = Vec::with_capacity(text.ids.len());
    for i in 0..text.rows.n() {
        if let Some((_, before)) = text.ids[text.rows.range(i)].split_last() {
            out.push(start);
            out.extend(before);
        }
    }
    out
}

/// An answer beside what was read.
pub(crate) fn beside_source(out: Output, mut side: Side) -> Output {
    match side.pop("source") {
        Some(read) => out.rows("encoder_last_hidden_state", read.x, &read.rows),
        None => out,
    }
}
