"""fixtures/minilm: embeddings by sentence-transformers of the folder models/all-MiniLM-L6-v2 (scripts/fetch-models.sh).

What sentence-transformers does: truncates at max_seq_length of sentence_bert_config.json (256 tokens, [CLS] and [SEP]
among them; the 128 in tokenizer.json does not hold), pads to the longest, means the tokens of the mask (1_Pooling), and
normalises to length one (modules.json lists 2_Normalize, which has no folder).
"""
import json
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import numpy as np
import oracle as o
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer

OUT = o.ROOT.parent / "fixtures" / "minilm"
MODEL = o.ROOT.parent / "models" / "all-MiniLM-L6-v2"

SENTENCES = [
    "",
    "a",
    "Hello",
    "This is an example sentence",
    "Each sentence is converted",
    "The quick brown fox jumps over the lazy dog.",
    "A man is eating food.",
    "A man is eating a piece of bread.",
    "The girl is carrying a baby.",
    "Two men pushed carts through the woods.",
    "A cheetah is running behind its prey.",
    "How do I reset my password?",
    "I forgot my login credentials; what should I do?",
    "Transformers are sequence models built on attention.",
    "Pruning tokens saves work because attention is quadratic in the number of tokens.",
    "   leading and trailing spaces   ",
    "tabs\tand\nnewlines\r\nin the middle",
    "   \t \n ",
    "ALL CAPS SENTENCE WITH SHOUTING!!!",
    "mIxEd CaSe TeXt",
    "café naïve façade jalapeño Ångström",
    "cafe\u0301 nai\u0308ve fac\u0327ade (decomposed accents)",
    "Zażółć gęślą jaźń",
    "Größe, Straße, übermäßig; İstanbul ve ılık",
    "Быстрая коричневая лиса прыгает через ленивую собаку",
    "Η γρήγορη καφέ αλεπού",
    "नमस्ते दुनिया, यह एक परीक्षण वाक्य है।",
    "สวัสดีชาวโลก นี่คือประโยคทดสอบ",
    "你好，世界。这是一个测试句子。",
    "これはテスト文です。カタカナとひらがな",
    "안녕하세요 세계, 이것은 시험 문장입니다",
    "مرحبا بالعالم، هذه جملة اختبار",
    "שלום עולם",
    "I love pizza 🍕 and coding 👩‍💻🚀!",
    "👍🏽🇫🇷❤️",
    "control\u0000 char\u0001acters\u007f here\u200b zero\u200dwidth \ufeff bom \ufffd",
    "no-break\u00a0space, em\u2003space, ideographic\u3000space, soft\u00adhyphen",
    "a" * 100,
    "a" * 101,
    "pneumonoultramicroscopicsilicovolcanoconiosis antidisestablishmentarianism",
    "3.14159 2,718,281 1e-12 0xDEADBEEF 50% $19.99 -40°C 10^6",
    "2024-02-29T23:59:59Z, phone +1 (555) 123-4567",
    "fn main() { let x: Vec<f32> = vec![1.0; 3]; println!(\"{:?}\", x); }",
    "SELECT name, COUNT(*) FROM users WHERE age >= 18 GROUP BY name;",
    "https://example.org/path?query=1&other=%20#frag user@example.org",
    "don't can't won't it's o'clock rock'n'roll",
    "[CLS] special [SEP] tokens [MASK] in [PAD] text [UNK] ##ing",
    "“curly quotes” — em dash … ellipsis ‹angle› ½ ² ™ ﬁ ligature ＦＵＬＬ ｗｉｄｔｈ",
    " ".join(["word"] * 300),
    " ".join(f"Sentence number {i} of a long document about the weather, the sea, and {i * 7} small boats."
             for i in range(60)),
]
assert len(SENTENCES) == 50 and len(set(SENTENCES)) == 50

model = SentenceTransformer(str(MODEL), device="cpu", local_files_only=True,
                            model_kwargs={"attn_implementation": "eager"})
print(model.max_seq_length, [type(m).__name__ for m in model])
assert model.max_seq_length == 256
ids = [model.preprocess([s])["input_ids"][0].tolist() for s in SENTENCES]
lens = np.array([len(i) for i in ids], dtype=np.int64)
embeddings = model.encode(SENTENCES, batch_size=16, convert_to_numpy=True).astype(np.float32)
alone = np.concatenate([model.encode([s], convert_to_numpy=True) for s in SENTENCES])
assert embeddings.shape == (50, 384) and np.abs(embeddings - alone).max() < 1e-5
assert np.abs(np.linalg.norm(embeddings, axis=1) - 1).max() < 1e-5
fast = Tokenizer.from_file(str(MODEL / "tokenizer.json"))
fast.no_padding()
fast.enable_truncation(model.max_seq_length)
assert ids == [e.ids for e in fast.encode_batch(SENTENCES)]  # tokenizer.json says the same, but for its 128
flat = np.concatenate([np.array(i, dtype=np.int64) for i in ids])
OUT.mkdir(parents=True, exist_ok=True)
with open(OUT / "sentences.json", "w") as f:
    json.dump(SENTENCES, f, indent=1)  # ASCII, so that control characters stay visible
    f.write("\n")
o.save_file({"embeddings": embeddings, "lens": lens, "input_ids": flat}, str(OUT / "expected.safetensors"))
print("lens", lens.tolist(), "batch against alone", np.abs(embeddings - alone).max())
