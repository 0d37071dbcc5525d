//! ONNX files: what `fixtures/onnx/make.py` exports, every type of tensor, and files that mean harm.

#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use switchformer_format::onnx::{Onnx, Wanted, read};
use switchformer_format::store::{Saved, SavedMap};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/onnx").join(name)
}

fn expected(name: &str) -> SavedMap {
    let bytes = std::fs::read(fixture(name)).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let saved = |t: safetensors::tensor::TensorView| Saved {
        dtype: t.dtype(),
        shape: t.shape().to_vec(),
        bytes: t.data().to_vec(),
    };
    file.tensors().into_iter().map(|(n, t)| (n, saved(t))).collect()
}

fn plain(name: &str) -> Onnx {
    read(&fixture(name), Wanted::default()).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// Equal maps, by name where they differ.
fn same(got: &SavedMap, want: &SavedMap, what: &str) {
    assert_eq!(Vec::from_iter(got.keys()), Vec::from_iter(want.keys()), "{what}");
    for (name, tensor) in want {
        assert_eq!(got[name], *tensor, "{what}: {name}");
    }
}

#[test]
fn every_type_in_raw_bytes_and_in_typed_fields() {
    let want = expected("types.safetensors");
    assert_eq!(want.len(), 17);
    for file in ["raw.onnx", "typed.onnx"] {
        let got = plain(file);
        same(&got.tensors, &want, file);
        let [left] = got.left.as_slice() else { panic!("{file}: {:?}", got.left) };
        assert!(left.name == "a.text" && left.why.contains("STRING"), "{left:?}");
    }
}

#[test]
fn weights_get_the_names_back_that_an_exporter_dropped() {
    let mut want = expected("modules.safetensors");
    let positions = want.remove("backbone.positions").unwrap();
    for (file, others) in [("modules.onnx", 0), ("scopes.onnx", 1), ("beside.onnx", 1)] {
        let mut got = plain(file);
        let of = |name: &str| got.recovered.iter().find(|(n, _)| n == name).map(|(_, old)| old.clone());
        // By the bias beside it, and by the module that the node stands in.
        assert!(of("backbone.layer.0.query.weight").is_some(), "{file}: {:?}", got.recovered);
        assert!(of("backbone.layer.1.key.weight").is_some(), "{file}: {:?}", got.recovered);
        assert_eq!(got.recovered.len(), 7, "{file}");
        // The newer exporter names a folded tensor after the function that made it.
        let folded = got.tensors.remove("cat");
        assert_eq!(usize::from(folded.is_some()), others, "{file}");
        assert!(folded.is_none_or(|t| t == positions));
        same(&got.tensors, &want, file);
    }
}

#[test]
fn a_module_is_taken_out_and_what_has_no_name_is_named_by_hand() {
    let named = [("positions".to_string(), vec![plain("modules.onnx").left[0].name.clone()])];
    let got = read(&fixture("modules.onnx"), Wanted { key: Some("backbone"), named: &named }).unwrap();
    let want = expected("modules.safetensors");
    let want = want.iter().filter_map(|(n, t)| Some((n.strip_prefix("backbone.")?.to_string(), t.clone()))).collect();
    same(&got.tensors, &want, "backbone");
    let [left] = got.left.as_slice() else { panic!("{:?}", got.left) };
    assert_eq!((&*left.name, &*left.why), ("head", "(2 tensors) lies outside of `backbone`"));
    let refused = |key: Option<&str>, new: &str, old: &[&str]| {
        let named = [(new.to_string(), old.iter().map(|o| (*o).to_string()).collect())];
        read(&fixture("modules.onnx"), Wanted { key, named: &named }).unwrap_err().to_string()
    };
    assert!(refused(Some("trunk"), "p", &["head.bias"]).contains("names begin with: backbone, head"));
    assert!(refused(None, "p", &["head.none"]).contains("holds no tensor `head.none`"));
    assert!(refused(None, "head.bias", &["head.bias"]).contains("holds `head.bias` already"));
    assert!(refused(None, "p", &["head.bias", "head.weight"]).contains("cannot be joined"));
    let twice = ["head.weight", "head.weight"];
    assert!(refused(None, "p", &twice).contains("do not differ in one dimension"));
    assert!(refused(None, "", &["head.bias"]).contains("a tensor name of 0 bytes"));
}

#[test]
fn parts_are_joined_along_the_dimension_in_which_they_differ() {
    let recovered = plain("modules.onnx").recovered;
    let old = |name: &str| recovered.iter().find(|(new, _)| new == name).unwrap().1.clone();
    let joined = |old: [&str; 2]| {
        let named = [("joined".to_string(), old.map(str::to_string).to_vec())];
        let all = read(&fixture("modules.onnx"), Wanted { key: None, named: &named }).unwrap().tensors;
        all["joined"].clone()
    };
    let all = plain("modules.onnx").tensors;
    let bytes = |name: &str| all[name].bytes.clone();
    let rows = joined(["backbone.norm.weight", "backbone.layer.0.query.bias"]);
    assert_eq!(rows.shape, [10]);
    assert_eq!(rows.bytes, [bytes("backbone.norm.weight"), bytes("backbone.layer.0.query.bias")].concat());
    // `[2, 6]` and `[4, 6]` differ in rows.
    let more = joined(["head.weight", &old("backbone.layer.0.output.weight")]);
    assert_eq!(more.shape, [6, 6]);
    assert_eq!(more.bytes[..48], bytes("head.weight"));
}

#[test]
fn bad_files_are_errors_that_say_what_is_wrong() {
    for (file, code, says) in [
        ("short", "onnx.tensor", "12 bytes, and holds 8"),
        ("negative", "onnx.tensor", "[-2]"),
        ("huge", "onnx.tensor", "which no tensor has"),
        ("large", "onnx.tensor", "and holds 8"),
        ("deep", "onnx.tensor", "17 dimensions"),
        ("twice", "onnx.tensor", "twice"),
        ("both", "onnx.tensor", "two places"),
        ("up", "onnx.external", "../modules.onnx"),
        ("absolute", "onnx.external", "/etc/passwd"),
        ("nowhere", "onnx.external", "\"\""),
        ("absent", "onnx.external", "none.data"),
        ("beyond", "onnx.external", "8 bytes from byte 1"),
        ("far", "onnx.external", "18446744073709551615"),
        ("length", "onnx.external", "8 bytes, and its data 4"),
        ("words", "onnx.external", "no number"),
        ("quantised", "onnx.quantised", "DequantizeLinear at node \"dq\""),
        ("inside", "onnx.unsupported", "If at \"if\""),
        ("nameless", "onnx.name", "`onnx::Add_1`, which has no name of a module (it feeds Add at \"sum\")"),
        ("unnamed", "onnx.name", "no name of a module"),
        ("empty", "onnx.name", "holds no tensor"),
    ] {
        let e = read(&fixture(&format!("bad/{file}.onnx")), Wanted::default()).unwrap_err();
        assert_eq!(e.code(), code, "{file}: {e}");
        assert!(e.to_string().contains(says), "{file}: {e}");
    }
}

#[test]
fn data_that_a_link_leads_out_of_the_folder_for_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (inner, outer) = (dir.path().join("m"), dir.path().join("secret"));
    std::fs::create_dir(&inner).unwrap();
    std::fs::write(&outer, [0; 8]).unwrap();
    std::fs::copy(fixture("bad/absent.onnx"), inner.join("m.onnx")).unwrap();
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink(&outer, inner.join("none.data")).unwrap();
        let e = read(&inner.join("m.onnx"), Wanted::default()).unwrap_err();
        assert!(e.code() == "onnx.external" && e.to_string().contains("leads out"), "{e}");
        std::fs::remove_file(inner.join("none.data")).unwrap();
    }
    std::fs::copy(&outer, inner.join("none.data")).unwrap();
    assert_eq!(read(&inner.join("m.onnx"), Wanted::default()).unwrap().tensors["a.w"].shape, [2]);
}

#[test]
fn other_files_and_damaged_ones_never_panic() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join("x.onnx");
    let write = |bytes: &[u8]| {
        std::fs::write(&at, bytes).unwrap();
        read(&at, Wanted::default())
    };
    for (bytes, says) in [
        (&b"<!doctype html><title>Sign in</title>"[..], "HTML page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git-lfs"),
        (b"PK\x03\x04............archive/data.pkl", "PyTorch"),
        (b"plain text", "cannot be read"),
        // A graph of 2^63 bytes, and one that holds itself as a group for ever.
        (b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\x7f", "cannot be read"),
        (&[0x1b; 4000], "cannot be read"),
    ] {
        let e = write(bytes).unwrap_err().to_string();
        assert!(e.contains(says), "{e}");
    }
    let whole = std::fs::read(fixture("modules.onnx")).unwrap();
    let (mut errors, mut seed) = (0, 9u64);
    // Cut anywhere, then with bytes changed.
    for cut in (1..whole.len()).step_by(13) {
        errors += usize::from(write(&whole[..cut]).is_err());
    }
    assert!(errors > whole.len() / 13 * 9 / 10, "{errors} of {} cuts were errors", whole.len() / 13);
    for _ in 0..600 {
        let mut bytes = whole.clone();
        for _ in 0..3 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let place = (seed >> 33) as usize % bytes.len();
            bytes[place] = (seed >> 11) as u8;
        }
        let _ = write(&bytes);
    }
}

#[test]
fn one_weight_under_many_names_is_limited() {
    // 4,000 Identity nodes give 4,000 names to 8 KiB.
    let field = |tag: u8, bytes: &[u8]| {
        let mut out = vec![tag << 3 | 2];
        let mut n = bytes.len();
        while n > 127 {
            out.push(n as u8 & 127 | 128);
            n >>= 7;
        }
        out.push(n as u8);
        out.extend_from_slice(bytes);
        out
    };
    let raw = vec![1; 8192];
    let tensor = [&[0x08, 0x80, 0x10, 0x10, 0x01][..], &field(8, b"a.w"), &field(9, &raw)].concat();
    let mut graph = field(5, &tensor);
    for i in 0..4_000 {
        let name = format!("b.{i}");
        graph.extend(field(1, &[field(1, b"a.w"), field(2, name.as_bytes()), field(4, b"Identity")].concat()));
    }
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join("x.onnx");
    std::fs::write(&at, field(7, &graph)).unwrap();
    assert_eq!(read(&at, Wanted::default()).unwrap_err().code(), "limit");
}
