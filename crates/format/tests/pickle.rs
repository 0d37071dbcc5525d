//! PyTorch's pickled checkpoints: every form that `fixtures/pickle/make.py` writes, and files that mean harm.

#![allow(clippy::unwrap_used)]

use std::io::Write;
use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensors};
use switchformer_format::pickle::{Pickled, read};
use switchformer_format::store::{Saved, SavedMap};
use zip::write::{SimpleFileOptions, ZipWriter};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/pickle").join(name)
}

fn expected() -> SavedMap {
    tensors_of("expected.safetensors")
}

fn tensors_of(file: &str) -> SavedMap {
    let bytes = std::fs::read(fixture(file)).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let saved = |t: safetensors::tensor::TensorView| Saved {
        dtype: t.dtype(),
        shape: t.shape().to_vec(),
        bytes: t.data().to_vec(),
    };
    file.tensors().into_iter().map(|(n, t)| (n, saved(t))).collect()
}

#[test]
fn every_form_gives_the_tensors_that_torch_wrote() {
    let want = expected();
    assert!(want.values().any(|t| t.dtype == Dtype::BF16) && want.len() == 13);
    for (file, key, prefix, skipped) in [
        ("zipped.pth", Some("model"), Some("module."), 0),
        ("old.pth", Some("model"), Some("module."), 0),
        ("plain.pth", None, None, 0),
        ("nested.pth", Some("state_dict"), None, 1),
    ] {
        let got = read(&fixture(file), None).unwrap_or_else(|e| panic!("{file}: {e}"));
        assert_eq!((got.key.as_deref(), got.prefix, got.skipped.len()), (key, prefix, skipped), "{file}");
        let part = |(n, _): &(&String, &Saved)| file != "nested.pth" || n.starts_with("a.");
        assert!(got.tensors.iter().eq(want.iter().filter(part)), "{file}");
    }
    let named = read(&fixture("nested.pth"), Some("state_dict.a")).unwrap();
    assert_eq!(named.tensors["turned"], want["a.turned"]);
    let layers = read(&fixture("layers.pth"), None).unwrap();
    assert_eq!(layers.tensors["1.num_batches_tracked"].dtype, Dtype::I64);
    assert_eq!(layers.tensors.len(), 7);
}

/// A zip file of stored entries.
fn zipped(dir: &Path, entries: &[(&str, &[u8])]) -> PathBuf {
    let path = dir.join("x.pth");
    let mut zip = ZipWriter::new(std::fs::File::create(&path).unwrap());
    for (name, bytes) in entries {
        let options = SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
        zip.start_file(*name, options).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap();
    path
}

fn text(s: &str) -> Vec<u8> {
    [b"X", &(s.len() as u32).to_le_bytes()[..], s.as_bytes()].concat()
}

fn int(n: i64) -> Vec<u8> {
    [&[0x8a, 8][..], &n.to_le_bytes()].concat()
}

/// `{"w": tensor}` with one f32 storage `0`.
fn one_tensor(elements: i64, offset: i64, shape: &[i64], strides: &[i64]) -> Vec<u8> {
    let tensor = tensor("FloatStorage", elements, offset, shape, strides, b"");
    [b"\x80\x02}".to_vec(), text("w"), tensor, b"s.".to_vec()].concat()
}

/// The call that makes a tensor; `notes` are values after its hooks.
fn tensor(kind: &str, elements: i64, offset: i64, shape: &[i64], strides: &[i64], notes: &[u8]) -> Vec<u8> {
    let tuple = |list: &[i64]| [b"(".to_vec(), list.iter().flat_map(|n| int(*n)).collect(), b"t".to_vec()].concat();
    [
        b"ctorch._utils\n_rebuild_tensor_v2\n((".to_vec(),
        text("storage"),
        format!("ctorch\n{kind}\n").into_bytes(),
        text("0"),
        text("cpu"),
        int(elements),
        b"tQ".to_vec(),
        int(offset),
        tuple(shape),
        tuple(strides),
        b"\x89N".to_vec(),
        notes.to_vec(),
        b"tR".to_vec(),
    ]
    .concat()
}

fn try_pickle(pickle: &[u8], storage: &[u8]) -> Result<Pickled, switchformer_format::Error> {
    let dir = tempfile::tempdir().unwrap();
    read(&zipped(dir.path(), &[("m/data.pkl", pickle), ("m/data/0", storage)]), None)
}

#[track_caller]
fn refused(pickle: &[u8], code: &str, says: &str) {
    let e = try_pickle(pickle, &[0; 16]).unwrap_err();
    assert!(e.code() == code && e.to_string().contains(says), "{}: {e}", e.code());
}

#[test]
fn code_is_named_and_not_run() {
    refused(b"\x80\x02cos\nsystem\nX\x02\0\0\0ls\x85R.", "pickle.global", "os.system");
    refused(b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93\x8c\x011\x85R.", "pickle.global", "builtins.eval");
    refused(b"\x80\x02ctorch.hub\nload\n)R.", "pickle.global", "torch.hub.load");
    refused(b"\x80\x02cnumpy.testing._private.utils\nruntests\n)R.", "pickle.global", "runtests");
    let e = read(&fixture("module.pth"), None).unwrap_err();
    assert!(e.code() == "pickle.global" && e.to_string().contains("state_dict"), "{e}");
    // Instructions that make objects in other ways.
    refused(b"\x80\x02(ios\nsystem\n.", "pickle.opcode", "0x69");
    refused(b"\x80\x02(cargparse\nNamespace\no.", "pickle.opcode", "0x6f");
    refused(b"\x80\x02\x82\x01.", "pickle.opcode", "0x82");
}

#[test]
fn broken_pickles_are_errors() {
    refused(b"", "pickle.truncated", "too early");
    refused(b"\x80\x02}", "pickle.truncated", "too early");
    refused(b"\x80\x09.", "pickle.opcode", "protocol 9");
    refused(b"\x80\x02.", "pickle.stack", "without a value");
    for stack in [
        &b"R."[..],
        b"s.",
        b"t.",
        b"u.",
        b"(s.",
        b"}Ns.",
        b"N(NuN.",
        b"h\x05.",
        b"q\x01.",
        b"NNR.",
        b"NNa.",
        b"]]\x93.",
    ] {
        refused(stack, "pickle.stack", "");
    }
    // Lengths far beyond the file take no memory.
    refused(b"\x80\x02X\xff\xff\xff\xff.", "pickle.truncated", "");
    refused(b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\x7f.", "pickle.truncated", "");
    refused(b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\xff.", "pickle.truncated", "");
    refused(b"\x80\x02]q\0.", "pickle.format", "no dictionary");
    refused(b"\x80\x02}X\x01\0\0\0aNs.", "pickle.key", "it has a");
}

#[test]
fn loops_and_shared_values_end() {
    // A dictionary within itself, beside a tensor.
    let tensor = one_tensor(4, 0, &[4], &[1]);
    let body = &tensor[3..tensor.len() - 1];
    let own = [b"\x80\x02}q\0", body, b"X\x05\0\0\0modelh\0s."].concat();
    refused(&own, "pickle.format", "deeper");
    // Sixteen levels of dictionaries, each holding the next ten times: 10^16 entries on 300 bytes.
    let mut bomb = [b"\x80\x02}q\0", body].concat();
    for level in 1..=15u8 {
        bomb.extend(b"}");
        bomb.extend([b'q', level]);
        for k in 0..10 {
            bomb.extend(text(&format!("{k}")));
            bomb.extend([b'h', level - 1, b's']);
        }
    }
    bomb.extend(b"0}X\x05\0\0\0modelh\x0fs.");
    refused(&bomb, "limit", "tensors");
    // Nested tuples that double: cheap, as nothing is copied.
    let mut doubled = b"\x80\x02)".to_vec();
    doubled.extend(b"2\x86".repeat(100_000));
    doubled.extend(b"0}");
    doubled.extend(body);
    doubled.push(b'.');
    assert_eq!(try_pickle(&doubled, &[0; 16]).unwrap().tensors["w"].shape, [4]);
}

#[test]
fn tensors_stay_within_their_storage() {
    let fine = try_pickle(&one_tensor(4, 1, &[3], &[1]), &[0; 16]).unwrap();
    assert_eq!(fine.tensors["w"].bytes.len(), 12);
    assert_eq!(try_pickle(&one_tensor(4, 0, &[], &[]), &[0; 16]).unwrap().tensors["w"].shape, [0usize; 0]);
    refused(&one_tensor(4, 1, &[4], &[1]), "pickle.tensor", "beyond");
    refused(&one_tensor(4, -1, &[4], &[1]), "pickle.tensor", "offset");
    refused(&one_tensor(4, 0, &[4], &[-1]), "pickle.tensor", "strides");
    refused(&one_tensor(4, 0, &[2, 2], &[1]), "pickle.tensor", "differ");
    refused(&one_tensor(4, i64::MAX, &[4], &[i64::MAX]), "pickle.tensor", "beyond");
    refused(&one_tensor(i64::MAX, i64::MAX - 5, &[4], &[1]), "pickle.storage", "16 bytes");
    refused(&one_tensor(5, 0, &[5], &[1]), "pickle.storage", "16 bytes");
    // One element read a million million times.
    refused(&one_tensor(4, 0, &[1_000_000, 1_000_000], &[0, 0]), "limit", "1000000");
    refused(&one_tensor(4, 0, &[i64::MAX, i64::MAX, 0], &[1, 1, 1]), "limit", "");
    assert_eq!(
        try_pickle(&one_tensor(4, 0, &[0, i64::MAX, 1], &[1, 1, 1]), &[0; 16]).unwrap().tensors["w"].bytes,
        [0u8; 0]
    );
    let dir = tempfile::tempdir().unwrap();
    let lost = zipped(dir.path(), &[("m/data.pkl", &one_tensor(4, 0, &[4], &[1]))]);
    assert_eq!(read(&lost, None).unwrap_err().code(), "pickle.archive");
}

/// `{key: value, ..}` of pickled keys and values.
fn dict(entries: &[(Vec<u8>, Vec<u8>)]) -> Vec<u8> {
    let inner: Vec<u8> = entries.iter().flat_map(|(k, v)| [&k[..], v, b"s"].concat()).collect();
    [b"}", &inner[..]].concat()
}

fn whole(value: &[u8]) -> Vec<u8> {
    [b"\x80\x02", value, b"."].concat()
}

/// Two f32 elements.
fn pair() -> Vec<u8> {
    tensor("FloatStorage", 4, 0, &[2], &[1], b"")
}

#[test]
fn notes_of_a_tensor_are_heeded_or_refused() {
    let with = |kind: &str, notes: &[u8]| whole(&dict(&[(text("w"), tensor(kind, 2, 0, &[2], &[1], notes))]));
    let note = |key: &str, value: &[u8]| dict(&[(text(key), value.to_vec())]);
    let halves: Vec<u8> = [1.5f32, -2.0].iter().flat_map(|v| v.to_le_bytes()).collect();
    let read = |notes: &[u8]| {
        let got = try_pickle(&with("FloatStorage", notes), &halves).unwrap();
        let values: Vec<f32> =
            got.tensors["w"].bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        values
    };
    assert_eq!(read(&note("neg", b"\x88")), [-1.5, 2.0]);
    for plain in [&note("neg", b"\x89")[..], &note("conj", b"\x89"), b"}", b"N", b""] {
        assert_eq!(read(plain), [1.5, -2.0]);
    }
    let wide: Vec<u8> = [1.5f64, -2.0].iter().flat_map(|v| v.to_le_bytes()).collect();
    let got = try_pickle(&with("DoubleStorage", &note("neg", b"\x88")), &wide).unwrap();
    assert_eq!(got.tensors["w"].bytes[..8], (-1.5f64).to_le_bytes());
    for (kind, notes, says) in [
        ("FloatStorage", note("conj", b"\x88"), "`conj`"),
        ("FloatStorage", note("odd", b"\x88"), "`odd`"),
        ("FloatStorage", note("neg", b"N"), "`neg`"),
        ("FloatStorage", b"]".to_vec(), "no dictionary"),
        ("FloatStorage", b"NN".to_vec(), "of 8 values"),
        ("IntStorage", note("neg", b"\x88"), "negative bit"),
    ] {
        refused(&with(kind, &notes), "pickle.tensor", says);
    }
    // A state would replace the elements of the tensor that was made.
    refused(&whole(&dict(&[(text("w"), [pair(), b"}b".to_vec()].concat())])), "pickle.tensor", "state");
}

#[test]
fn no_tensor_is_lost_without_a_word() {
    let list = [b"]", &pair()[..], b"a"].concat();
    let space = [b"cargparse\nNamespace\n)\x81", &dict(&[(text("w"), pair())])[..], b"b"].concat();
    let all = dict(&[
        (text("x"), pair()),
        (int(0), pair()),
        (text("list"), list),
        (text("args"), space),
        (int(3), b"N".to_vec()),
        (text("note"), text("hi")),
    ]);
    let got = try_pickle(&whole(&all), &[0; 16]).unwrap();
    assert_eq!(got.tensors.keys().collect::<Vec<_>>(), ["x"]);
    assert_eq!(got.left.iter().map(|l| l.name.as_str()).collect::<Vec<_>>(), ["0", "list", "args"]);
    assert!(got.left[0].why.contains("no text") && got.left[1].why.contains("list"));
    assert_eq!(got.skipped, ["3", "note"]);
    // What lies beside the dictionary that was taken.
    let beside = dict(&[(text("ema"), dict(&[(text("a"), pair())])), (text("model"), dict(&[(text("a"), pair())]))]);
    let got = try_pickle(&whole(&beside), &[0; 16]).unwrap();
    assert_eq!((got.key.as_deref(), got.left[0].name.as_str(), got.left.len()), (Some("model"), "ema", 1));
    refused(&whole(&dict(&[(text("model"), dict(&[(int(0), pair())]))])), "pickle.key", "no text");
}

#[test]
fn the_usual_entry_is_taken_though_tensors_stand_beside_it() {
    // The layout of PyTorch's ImageNet example: the best accuracy is a tensor.
    let model = || dict(&[(text("module.a"), pair())]);
    let found = |entries: &[(Vec<u8>, Vec<u8>)]| {
        let got = try_pickle(&whole(&dict(entries)), &[0; 16]).unwrap();
        let left: Vec<String> = got.left.iter().map(|l| l.name.clone()).collect();
        (got.key, got.prefix, got.tensors.into_keys().collect::<Vec<_>>().join(","), left.join(","))
    };
    let said = |key: &str, prefix, names: &str, left: &str| (Some(key.to_string()), prefix, names.into(), left.into());
    let module = Some("module.");
    assert_eq!(
        found(&[(text("best_acc1"), pair()), (text("state_dict"), model())]),
        said("state_dict", module, "a", "best_acc1")
    );
    assert_eq!(
        found(&[(text("ema"), model()), (text("optimizer"), dict(&[(text("s"), pair())]))]),
        said("ema", module, "a", "optimizer")
    );
    let inner = dict(&[(text("state_dict"), model()), (text("epoch"), int(3))]);
    assert_eq!(found(&[(text("loss"), pair()), (text("model"), inner)]), said("model.state_dict", module, "a", "loss"));
    // An entry of a usual name without tensors is not the model.
    let settings = dict(&[(text("width"), int(3))]);
    assert_eq!(found(&[(text("w"), pair()), (text("model"), settings)]), (None, None, "w".into(), String::new()));
}

#[test]
fn every_type_of_safetensors_is_converted_and_what_has_none_is_named() {
    let want = tensors_of("types.safetensors");
    for file in ["types.pth", "types-old.pth"] {
        let got = read(&fixture(file), None).unwrap_or_else(|e| panic!("{file}: {e}"));
        assert_eq!(got.tensors, want, "{file}");
        let left: Vec<(&str, &str)> = got.left.iter().map(|l| (l.name.as_str(), l.why.as_str())).collect();
        let [(a, wide), (b, sparse), (c, quantized)] = left[..] else { panic!("{left:?}") };
        assert_eq!([a, b, c], ["wide", "sparse", "quantized"]);
        assert!(wide.contains("ComplexDouble") && sparse.contains("to_dense") && quantized.contains("dequantize"));
    }
}

#[test]
fn names_that_collide_or_that_reading_refuses_are_errors() {
    let both = dict(&[(text("a"), dict(&[(text("b"), pair())])), (text("a.b"), pair())]);
    refused(&whole(&both), "pickle.tensor", "a.b");
    refused(&whole(&dict(&[(text("a"), pair()), (text("a"), pair())])), "pickle.tensor", "two tensors");
    let parts = |n: usize| whole(&dict(&[(text(&vec!["a"; n].join(".")), pair())]));
    assert!(try_pickle(&parts(64), &[0; 16]).is_ok());
    refused(&parts(65), "pickle.tensor", "65 parts");
    refused(&whole(&dict(&[(text("__metadata__"), pair())])), "pickle.tensor", "__metadata__");
    // The writer refuses what the reader would.
    let map: SavedMap = [(vec!["a"; 65].join("."), Saved::f32(&[1], &[0.0]))].into();
    let e = switchformer_format::store::safetensors_bytes(&map).unwrap_err();
    assert!(e.code() == "safetensors.write" && e.to_string().contains("65 parts"), "{e}");
}

#[test]
fn other_files_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let put = |bytes: &[u8]| {
        let path = dir.path().join("y.pth");
        std::fs::write(&path, bytes).unwrap();
        read(&path, None).unwrap_err()
    };
    assert_eq!(put(b"{}").code(), "pickle.format");
    assert_eq!(put(b"").code(), "safetensors.empty"); // said by whatever maps a file
    assert_eq!(put(b"PK\x03\x04 not really").code(), "pickle.archive");
    assert_eq!(put(b"\x80\x02}.").code(), "pickle.format");
    let mut tar = vec![0u8; 512];
    tar[257..262].copy_from_slice(b"ustar");
    assert!(put(&tar).to_string().contains("tar"));
    let two = zipped(dir.path(), &[("a/data.pkl", b"."), ("b/data.pkl", b".")]);
    assert!(read(&two, None).unwrap_err().to_string().contains("2 pickles"));
    let big = zipped(dir.path(), &[("a/data.pkl", b"\x80\x02}."), ("a/byteorder", b"big")]);
    assert!(read(&big, None).unwrap_err().to_string().contains("big-endian"));
    let script = zipped(dir.path(), &[("a/data.pkl", b"\x80\x02}."), ("a/constants.pkl", b"")]);
    assert!(read(&script, None).unwrap_err().to_string().contains("TorchScript"));
    let wrong = read(&fixture("zipped.pth"), Some("weights")).unwrap_err();
    assert!(wrong.code() == "pickle.key" && wrong.to_string().contains("model, epoch"), "{wrong}");
}

#[test]
fn damage_is_never_a_panic() {
    for name in ["zipped.pth", "old.pth", "plain.pth"] {
        let whole = std::fs::read(fixture(name)).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        let mut state = 17u64;
        let mut next = |n: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % n
        };
        for round in 0..300 {
            let mut bytes = whole.clone();
            if round % 3 == 0 {
                bytes.truncate(next(whole.len()));
            }
            for _ in 0..1 + next(3) {
                if let Some(b) = (!bytes.is_empty()).then(|| next(bytes.len())).map(|i| &mut bytes[i]) {
                    *b = next(256) as u8;
                }
            }
            std::fs::write(&path, &bytes).unwrap();
            // Either is fine; a panic is not.
            let _ = read(&path, None);
        }
    }
}
