"""What the BART and Marian scripts share: sizes and inputs with two sides."""
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import numpy as np
import oracle as o

SOURCE, TARGET = (9, 6, 3), (4, 7, 2)
SIZES = dict(vocab_size=100, d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4,
             decoder_attention_heads=2, encoder_ffn_dim=48, decoder_ffn_dim=64, max_position_embeddings=24)
BODY = ("shared.weight", "encoder.layers.0.self_attn.q_proj.weight", "encoder.layers.1.fc1.weight",
        "decoder.layers.0.encoder_attn.k_proj.weight", "decoder.layers.1.final_layer_norm.weight")
NOTE = ("Padded rows are stored as zeros. Blocks count through encoder, then decoder; cross.probs is the decoder's "
        "attention to the source. ")


def side(key, lens, start, end, pad, left=False):
    """Padded ids and mask; a text ends with `end`, and what is written starts with `start`."""
    n = max(lens)
    ids, mask = np.full((len(lens), n), pad, np.int64), np.zeros((len(lens), n), np.int64)
    words = o.integers(key, ids.shape, 4, 90)
    for b, k in enumerate(lens):
        at = slice(n - k, n) if left else slice(0, k)
        ids[b, at], mask[b, at] = words[b, :k], 1
        if start is not None:
            ids[b, at.start] = start
        else:
            ids[b, at.stop - 1] = end
    return ids, mask


def inputs(family, start, end, pad, target=True, left=False):
    ids, mask = side(f"golden.{family}.source", SOURCE, None, end, pad, left)
    out = {"input_ids": ids, "attention_mask": mask}
    if target:
        ids, mask = side(f"golden.{family}.target", TARGET, start, end, pad)
        out |= {"decoder_input_ids": ids, "decoder_attention_mask": mask}
    return out


def seq2seq(folder, case, loaded, tokens, grads=(), note="", taps=True, left=False):
    given = inputs(folder.name, *tokens, left=left)
    rows, target = given["attention_mask"], given["decoder_attention_mask"]
    if grads:
        given["labels"] = np.where(target != 0, o.integers(f"golden.{folder.name}.labels", target.shape, 0, 100), -100)
    call = lambda kw: loaded.module(**kw, output_attentions=True, use_cache=False)
    o.run_case(folder / case, loaded, given, o.ce_loss if grads else None, o.first(loaded.tensors, *grads), rows=rows,
               target_rows=target, call=call, taps=taps,
               note=NOTE + note + ("out.loss: mean cross-entropy over labels that are not -100." if grads else ""))
