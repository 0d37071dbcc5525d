//! Views against copies, operations against loops, gradients against differences.

#![allow(clippy::unwrap_used)]

use switchformer_format::rng::Rng;
use switchformer_tensor::{D, DType, Result, Tensor, Var};

fn drawn(name: &str, n: usize, from: f64, to: f64) -> Vec<f64> {
    let mut rng = Rng::named(name);
    (0..n).map(|_| from + (to - from) * f64::from(rng.unit())).collect()
}

/// Numbers in an order that is not that of the storage.
fn turned(name: &str, shape: (usize, usize, usize)) -> Tensor {
    let (a, b, c) = shape;
    Tensor::from_vec(drawn(name, a * b * c, 0.2, 1.4), (c, b, a)).unwrap().permute((2, 1, 0)).unwrap()
}

fn flat(t: &Tensor) -> Vec<f64> {
    t.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// Gradients of `sum(f(..) * weights)` at every input are those of central differences.
fn agrees(what: &str, inputs: &[(&[usize], f64, f64)], f: impl Fn(&[Tensor]) -> Result<Tensor>) {
    let values: Vec<Vec<f64>> = inputs
        .iter()
        .enumerate()
        .map(|(i, (shape, from, to))| drawn(&format!("{what} {i}"), shape.iter().product(), *from, *to))
        .collect();
    let loss = |tensors: &[Tensor]| -> Result<Tensor> {
        let y = f(tensors)?;
        let weights = Tensor::from_vec(drawn("weights", y.elem_count(), -1.0, 1.0), y.dims().to_vec())?;
        (y * weights)?.sum_all()
    };
    let vars: Vec<Var> =
        values.iter().zip(inputs).map(|(v, (shape, ..))| Var::from_vec(v.clone(), *shape).unwrap()).collect();
    let tensors: Vec<Tensor> = vars.iter().map(|v| v.as_tensor().clone()).collect();
    let grads = loss(&tensors).unwrap().backward().unwrap();
    let at = |values: &[Vec<f64>]| -> f64 {
        let tensors: Vec<Tensor> =
            values.iter().zip(inputs).map(|(v, (shape, ..))| Tensor::from_vec(v.clone(), *shape).unwrap()).collect();
        loss(&tensors).unwrap().to_scalar().unwrap()
    };
    for (i, var) in vars.iter().enumerate() {
        let got = flat(grads.get(var.as_tensor()).unwrap_or_else(|| panic!("{what}: no gradient of input {i}")));
        for (k, got) in got.iter().enumerate() {
            let shifted = |by: f64| {
                let mut values = values.clone();
                values[i][k] += by;
                at(&values)
            };
            let want = (shifted(1e-5) - shifted(-1e-5)) / 2e-5;
            assert!((got - want).abs() < 1e-6 * (1.0 + want.abs()), "{what}, input {i}, place {k}: {got} for {want}");
        }
    }
}

#[test]
fn gradients_are_those_of_differences() {
    type Unary = fn(&Tensor) -> Result<Tensor>;
    let unary: &[(&str, f64, f64, Unary)] = &[
        ("neg", -1.0, 1.0, Tensor::neg),
        ("exp", -1.0, 1.0, Tensor::exp),
        ("log", 0.3, 2.0, Tensor::log),
        ("sin", -2.0, 2.0, Tensor::sin),
        ("cos", -2.0, 2.0, Tensor::cos),
        ("sqr", -1.0, 1.0, Tensor::sqr),
        ("sqrt", 0.3, 2.0, Tensor::sqrt),
        ("recip", 0.5, 2.0, Tensor::recip),
        ("abs", 0.1, 2.0, Tensor::abs),
        ("tanh", -2.0, 2.0, Tensor::tanh),
        ("relu", 0.1, 1.0, Tensor::relu),
        ("silu", -3.0, 3.0, Tensor::silu),
        ("gelu", -3.0, 3.0, Tensor::gelu),
        ("gelu_erf", -3.0, 3.0, Tensor::gelu_erf),
        ("powf", 0.3, 2.0, |x| x.powf(1.7)),
        ("clamp", 0.3, 0.6, |x| x.clamp(0.1, 0.9)),
        ("affine", -1.0, 1.0, |x| x.affine(3.0, -2.0)),
        ("reversed", 0.5, 1.0, |x| 2.0 / (1.0 - (x * 0.5)?)?),
    ];
    for (name, from, to, f) in unary {
        agrees(name, &[(&[3, 4], *from, *to)], |x| f(&x[0]));
    }
    let both: &[(&[usize], f64, f64)] = &[(&[2, 1, 3], 0.5, 1.5), (&[4, 1], 0.5, 1.5)];
    agrees("add", both, |x| x[0].broadcast_add(&x[1]));
    agrees("sub", both, |x| x[0].broadcast_sub(&x[1]));
    agrees("mul", both, |x| x[0].broadcast_mul(&x[1]));
    agrees("div", both, |x| x[0].broadcast_div(&x[1]));
    let equal: &[(&[usize], f64, f64)] = &[(&[3, 4], 0.0, 1.0), (&[3, 4], 0.0, 1.0)];
    agrees("minimum", equal, |x| x[0].minimum(&x[1]));
    agrees("maximum", equal, |x| x[0].maximum(&x[1]));
    agrees("matmul", &[(&[2, 3, 4], -1.0, 1.0), (&[2, 4, 5], -1.0, 1.0)], |x| x[0].matmul(&x[1]));
    agrees("rows", &[(&[2, 3, 4], -1.0, 1.0), (&[4, 5], -1.0, 1.0)], |x| x[0].broadcast_matmul(&x[1]));
    let one: &[(&[usize], f64, f64)] = &[(&[3, 4, 2], -1.0, 1.0)];
    agrees("sum", one, |x| x[0].sum((0, 2)));
    agrees("mean", one, |x| x[0].mean_keepdim(1));
    agrees("max", one, |x| x[0].max(D::Minus1));
    agrees("log_sum_exp", one, |x| x[0].log_sum_exp(1));
    agrees("transposed", one, |x| x[0].t()?.contiguous()?.sqr());
    agrees("narrow", one, |x| x[0].narrow(1, 1, 2)?.reshape((6, ()))?.sqr());
    agrees("broadcast", &[(&[3, 1], -1.0, 1.0)], |x| x[0].broadcast_as((2, 3, 4))?.sqr());
    agrees("cat", both, |x| Tensor::cat(&[x[0].flatten_all()?, x[1].flatten_all()?], 0)?.sqr());
    agrees("pad", one, |x| x[0].pad_with_zeros(1, 1, 2)?.sqr());
    // An entry that is picked twice, and one that is not.
    let index = Tensor::new(&[2u32, 0, 2]).unwrap();
    agrees("index_select", one, |x| x[0].index_select(&index, 1)?.sqr());
    let index = Tensor::new(&[[1u32, 1], [0, 3], [2, 2]]).unwrap();
    agrees("gather", &[(&[3, 4], -1.0, 1.0)], |x| x[0].gather(&index, 1)?.sqr());
    // A tensor that is read twice, once by way of a view.
    agrees("twice", one, |x| (&x[0] * x[0].permute((0, 1, 2))?)? + x[0].exp()?);
}

#[test]
fn views_hold_the_numbers_of_copies() {
    let t = turned("t", (2, 3, 4));
    let copy = Tensor::from_vec(flat(&t), (2, 3, 4)).unwrap();
    assert!(!t.is_contiguous() && copy.is_contiguous());
    type View = fn(&Tensor) -> Result<Tensor>;
    let views: &[(&str, View)] = &[
        ("narrow", |x| x.narrow(1, 1, 2)),
        ("twice", |x| x.narrow(2, 1, 3)?.narrow(0, 1, 1)),
        ("t", |x| x.t()),
        ("permute", |x| x.permute((1, 2, 0))),
        ("reshape", |x| x.reshape((6, ()))),
        ("flatten", |x| x.flatten(0, 1)),
        ("unsqueeze", |x| x.unsqueeze(D::Minus1)),
        ("get", |x| x.get(1)),
        ("chunk", |x| Tensor::cat(&x.chunk(2, 2)?.iter().rev().cloned().collect::<Vec<_>>(), 2)),
        ("stack", |x| Tensor::stack(&[x.get(0)?, x.get(1)?], 1)),
        ("broadcast", |x| x.narrow(1, 0, 1)?.broadcast_as((2, 5, 4))),
        ("sum", |x| x.sum_keepdim(1)),
        ("max", |x| x.max_keepdim(2)),
        ("product", |x| x.matmul(&x.t()?)),
        ("sum of views", |x| x.narrow(2, 0, 2)? + x.narrow(2, 2, 2)?),
    ];
    for (what, f) in views {
        let (a, b) = (f(&t).unwrap(), f(&copy).unwrap());
        assert_eq!(a.dims(), b.dims(), "{what}");
        assert_eq!(flat(&a), flat(&b), "{what}");
    }
    // What is in order is shared, not copied.
    let before = copy.id();
    assert_eq!(copy.contiguous().unwrap().id(), before);
}

#[test]
fn f32_and_f64_compute_the_same() {
    let (a, b) = (turned("a", (2, 3, 4)), turned("b", (2, 4, 5)));
    let narrow = |t: &Tensor| t.to_dtype(DType::F32).unwrap();
    let close = |a: &Tensor, b: &Tensor| flat(a).iter().zip(flat(b)).all(|(a, b)| (a - b).abs() < 1e-5);
    assert!(close(&a.matmul(&b).unwrap(), &narrow(&a).matmul(&narrow(&b)).unwrap()));
    assert!(close(&a.sum((0, 1)).unwrap(), &narrow(&a).sum((0, 1)).unwrap()));
    assert!(close(&a.gelu_erf().unwrap(), &narrow(&a).gelu_erf().unwrap()));
    let (x, k) = (turned("x", (1, 2, 36)).reshape((1, 2, 6, 6)).unwrap(), turned("k", (4, 1, 9)));
    let (x, k) = (narrow(&x), narrow(&k.reshape((4, 1, 3, 3)).unwrap()));
    let y = x.conv2d(&k, 1, 2, 2).unwrap();
    assert_eq!(y.dims(), [1, 4, 3, 3]);
    // One place by hand: the middle of the third map reads the second channel.
    let (x, k) = (flat(&x), flat(&k));
    let want: f64 = (0..9).map(|t| x[36 + (1 + t / 3) * 6 + 1 + t % 3] * k[18 + t]).sum();
    assert!((flat(&y)[18 + 4] - want).abs() < 1e-5);
}

#[test]
fn a_type_survives_the_way_through_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("all.safetensors");
    let t = Tensor::new(&[[1f64, 2.0, 250.0], [3.0, 4.0, 5.0]]).unwrap();
    let types =
        [DType::U8, DType::I16, DType::I32, DType::U32, DType::I64, DType::BF16, DType::F16, DType::F32, DType::F64];
    let all = types.iter().map(|d| (format!("{d:?}"), t.to_dtype(*d).unwrap())).collect();
    switchformer_tensor::safetensors::save(&all, &file).unwrap();
    let back = switchformer_tensor::safetensors::load(&file).unwrap();
    for dtype in types {
        let got = &back[&format!("{dtype:?}")];
        assert_eq!((got.dtype(), got.dims()), (dtype, &[2, 3][..]));
        assert_eq!(flat(got), flat(&t), "{dtype:?}");
        let index = Tensor::new(&[1u8]).unwrap();
        assert_eq!(flat(&got.index_select(&index, 0).unwrap()), [3.0, 4.0, 5.0], "{dtype:?}");
        assert_eq!(flat(&Tensor::cat(&[got, got], 1).unwrap())[3..6], [1.0, 2.0, 250.0], "{dtype:?}");
    }
}

#[test]
fn what_does_not_fit_is_an_error_and_no_panic() {
    let t = Tensor::zeros((2, 3), DType::F32).unwrap();
    let ids = Tensor::new(&[-1i64]).unwrap();
    let empty = Tensor::zeros((0, 3), DType::F32).unwrap();
    let wrong: [(&str, Result<Tensor>); 22] = [
        ("from_vec", Tensor::from_vec(vec![0f32; 5], (2, 3))),
        ("bytes", Tensor::from_raw_buffer(&[0; 7], DType::F32, &[2])),
        ("reshape", t.reshape((4, 2))),
        ("hole", t.reshape((4, ()))),
        ("hole of none", t.reshape((0, ()))),
        ("narrow", t.narrow(1, 2, usize::MAX)),
        ("dimension", t.narrow(2, 0, 1)),
        ("flatten", t.flatten(1, 0)),
        ("permute", t.permute((0, 0))),
        ("permute of one", t.permute((0, 2))),
        ("add", &t + &Tensor::zeros((3, 2), DType::F32).unwrap()),
        ("types", &t + &t.to_dtype(DType::F64).unwrap()),
        ("broadcast", t.broadcast_as((3, 3))),
        ("to fewer", t.broadcast_as(3)),
        ("matmul", t.matmul(&t)),
        ("matmul of a vector", t.matmul(&t.flatten_all().unwrap())),
        ("index", t.index_select(&ids, 0)),
        ("an index beyond", t.index_select(&Tensor::new(&[2u32]).unwrap(), 0)),
        ("cat of nothing", Tensor::cat::<Tensor>(&[], 0)),
        ("cat", Tensor::cat(&[&t, &t.t().unwrap()], 0)),
        ("the largest of nothing", empty.max(0)),
        ("an exponential of ids", ids.exp()),
    ];
    for (what, got) in wrong {
        let text = got.map(|t| t.dims().to_vec()).expect_err(what).to_string();
        assert!(!text.is_empty(), "{what}");
    }
    assert!(t.to_vec1::<f32>().is_err() && t.to_vec2::<u32>().is_err() && t.to_scalar::<f32>().is_err());
    let var = Var::from_tensor(&t).unwrap();
    assert!(var.set(&t.t().unwrap()).is_err());
    // Nothing of nothing is a shape like any other.
    assert_eq!(empty.sum(0).unwrap().dims(), [3]);
    assert_eq!(empty.t().unwrap().contiguous().unwrap().dims(), [3, 0]);
    assert_eq!(empty.matmul(&Tensor::zeros((3, 4), DType::F32).unwrap()).unwrap().dims(), [0, 4]);
    let index = Tensor::from_vec(Vec::<u32>::new(), 0).unwrap();
    assert_eq!(t.index_select(&index, 1).unwrap().dims(), [2, 0]);
    assert_eq!(Tensor::cat(&[&empty, &t], 0).unwrap().dims(), [2, 3]);
}

#[test]
fn whole_numbers_of_every_width_and_truth_values_are_read() {
    use safetensors::tensor::{Dtype, TensorView};
    let of = |dtype, bytes: &[u8], n: usize| {
        let view = TensorView::new(dtype, vec![n], bytes).unwrap();
        let file = safetensors::serialize([("x", view)], None).unwrap();
        switchformer_tensor::safetensors::load_bytes(&file)
    };
    let values = |dtype, bytes: &[u8], n| {
        let t = of(dtype, bytes, n).unwrap().remove("x").unwrap();
        t.to_dtype(DType::F64).unwrap().to_vec1::<f64>().unwrap()
    };
    assert_eq!(values(Dtype::BOOL, &[1, 0, 255], 3), [1.0, 0.0, 1.0]);
    assert_eq!(values(Dtype::I8, &[0x80, 5], 2), [-128.0, 5.0]);
    assert_eq!(values(Dtype::U16, &[0xff, 0xff, 1, 0], 2), [65535.0, 1.0]);
    assert_eq!(values(Dtype::U64, &7u64.to_le_bytes(), 1), [7.0]);
    assert!(of(Dtype::U64, &u64::MAX.to_le_bytes(), 1).unwrap_err().to_string().contains("`x` of U64"));
    let narrow = of(Dtype::F8_E4M3, &[1, 2], 2).unwrap_err().to_string();
    assert!(narrow.contains("`x` is of F8_E4M3") && narrow.contains("give BOOL, U8"), "{narrow}");
}
