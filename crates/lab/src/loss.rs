//! Losses over logits.

use candle_core::{D, DType, Tensor};

use crate::error::Result;

/// Logarithm of the softmax over classes. Shapes: `[n, classes]` -> the same.
pub fn log_softmax(logits: &Tensor) -> Result<Tensor> {
    let top = logits.max_keepdim(D::Minus1)?.detach();
    let shifted = logits.broadcast_sub(&top)?;
    let sum = shifted.exp()?.sum_keepdim(D::Minus1)?.log()?;
    Ok(shifted.broadcast_sub(&sum)?)
}

/// Softmax without gradient. Shapes: `[n, classes]` -> the same.
pub fn softmax(logits: &Tensor) -> Result<Tensor> {
    Ok(log_softmax(&logits.detach())?.exp()?)
}

/// Label-smoothed one-hot targets: `1 - smoothing` on the label plus `smoothing / classes` everywhere.
/// Shapes: -> `[n, classes]`.
pub fn targets(labels: &[u8], classes: usize, smoothing: f64) -> Result<Tensor> {
    let rest = (smoothing / classes as f64) as f32;
    let mut t = vec![rest; labels.len() * classes];
    for (i, label) in labels.iter().enumerate() {
        t[i * classes + *label as usize] += (1.0 - smoothing) as f32;
    }
    Ok(Tensor::from_vec(t, (labels.len(), classes), &candle_core::Device::Cpu)?.to_dtype(DType::F32)?)
}

/// Mean cross-entropy against a distribution over classes. Shapes: both `[n, classes]` -> scalar.
pub fn cross_entropy(logits: &Tensor, target: &Tensor) -> Result<Tensor> {
    let n = logits.dims()[0] as f64;
    Ok(((log_softmax(logits)? * target)?.sum_all()? / -n)?)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use candle_core::{Device, Var};

    #[test]
    fn cross_entropy_matches_the_closed_form() {
        let logits = Tensor::new(&[[1f32, 2.0, 3.0], [0.0, 0.0, 0.0]], &Device::Cpu).unwrap();
        let t = targets(&[2, 0], 3, 0.0).unwrap();
        let got = cross_entropy(&logits, &t).unwrap().to_scalar::<f32>().unwrap();
        let first = (1f64.exp() + 2f64.exp() + 3f64.exp()).ln() - 3.0;
        assert!((f64::from(got) - (first + 3f64.ln()) / 2.0).abs() < 1e-6);
    }

    #[test]
    fn smoothing_spreads_the_target() {
        let t = targets(&[1], 4, 0.2).unwrap().to_vec2::<f32>().unwrap();
        assert!((t[0][1] - 0.85).abs() < 1e-6 && (t[0][0] - 0.05).abs() < 1e-6);
    }

    #[test]
    fn gradient_is_softmax_minus_target() {
        let x = Var::new(&[[0.3f32, -0.2, 0.9]], &Device::Cpu).unwrap();
        let t = targets(&[0], 3, 0.1).unwrap();
        let grads = cross_entropy(x.as_tensor(), &t).unwrap().backward().unwrap();
        let got = grads.get(x.as_tensor()).unwrap().to_vec2::<f32>().unwrap();
        let want = (softmax(x.as_tensor()).unwrap() - t).unwrap().to_vec2::<f32>().unwrap();
        got[0].iter().zip(&want[0]).for_each(|(g, w)| assert!((g - w).abs() < 1e-6));
    }
}
