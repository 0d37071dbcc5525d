//! Learning curves of a run: as one self-contained HTML page, and as a sketch on the terminal.

use std::path::Path;

use maud::{Markup, html};
use plotters::prelude::*;
use serde_json::Value;
use switchformer_nn::store::write_atomic;

use crate::error::Result;
use crate::page::{FAINT, INK, PAPER, chart, font, letters, plot, standalone};

/// Largest metrics file that is read.
const MAX_METRICS: u64 = 256 << 20;
/// Points of a curve; more are averaged.
const POINTS: usize = 400;

/// Values by step.
pub type Curve = Vec<(f64, f64)>;

/// The curves of a run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Curves {
    /// Loss of training steps.
    pub loss: Curve,
    /// Validation loss.
    pub valid: Curve,
    /// Learning rate.
    pub lr: Curve,
    /// Norm of the gradient.
    pub norm: Curve,
}

impl Curves {
    /// Reads `metrics.jsonl` of a run; a line that a kill cut short is left out.
    pub fn read(run: &Path) -> Result<Curves> {
        let bytes = switchformer_nn::json::read_capped(&run.join("metrics.jsonl"), MAX_METRICS)?;
        let mut all = Curves::default();
        for line in String::from_utf8_lossy(&bytes).lines() {
            let Ok(line) = serde_json::from_str::<Value>(line) else { continue };
            let Some(step) = line["step"].as_f64() else { continue };
            let curves =
                [("loss", &mut all.loss), ("valid", &mut all.valid), ("lr", &mut all.lr), ("grad_norm", &mut all.norm)];
            for (key, curve) in curves {
                if let Some(value) = line[key].as_f64().filter(|v| v.is_finite()) {
                    curve.push((step, value));
                }
            }
        }
        Ok(all)
    }
}

/// A curve with neighbours averaged to at most so many points.
pub fn thinned(curve: &Curve, points: usize) -> Curve {
    let per = curve.len().div_ceil(points.max(1)).max(1);
    let mean = |part: &[(f64, f64)], of: fn(&(f64, f64)) -> f64| part.iter().map(of).sum::<f64>() / part.len() as f64;
    curve.chunks(per).map(|part| (mean(part, |p| p.0), mean(part, |p| p.1))).collect()
}

/// Smallest and largest value of curves, a little apart where they are equal; `None` without any.
pub fn bounds(curves: &[&Curve]) -> Option<(f64, f64)> {
    let values = || curves.iter().flat_map(|c| c.iter()).map(|p| p.1);
    let (low, high) = values().fold((f64::MAX, f64::MIN), |(l, h), v| (l.min(v), h.max(v)));
    (low <= high).then(|| (low, if high > low { high } else { low + low.abs().max(1e-6) }))
}

/// Writes `report.html` into the folder of a run: its curves and its recipe.
pub fn write_page(run: &Path, name: &str, recipe: &str) -> Result<()> {
    let all = Curves::read(run)?;
    let loss = drawn("loss", &[("training", &all.loss), ("validation", &all.valid)])?;
    let lr = drawn("learning rate", &[("learning rate", &all.lr)])?;
    let norm = drawn("norm of the gradient", &[("norm", &all.norm)])?;
    let last = |c: &Curve| c.last().map_or("none".to_string(), |p| format!("{:.4} at step {}", p.1, p.0));
    let body = html! {
        h1 { "Training of " (name) }
        p { "Last training loss: " (last(&all.loss)) ". Last validation loss: " (last(&all.valid)) "." }
        h2 { "Loss" }
        (loss)
        h2 { "Learning rate" }
        (lr)
        h2 { "Gradient" }
        (norm)
        h2 { "Recipe" }
        pre { (recipe) }
    };
    let page = standalone(name, &body);
    Ok(write_atomic(&run.join("report.html"), page.into_string().as_bytes())?)
}

/// Losses of training and validation against steps in `width` by `height` characters; empty without values.
pub fn sketch(loss: &Curve, valid: &Curve, width: u16, height: u16) -> String {
    let loss = thinned(loss, 2 * usize::from(width));
    let (Some((low, high)), Some(last)) = (bounds(&[&loss, valid]), loss.last().or(valid.last())) else {
        return String::new();
    };
    let (top, bottom) = (format!("{high:.3}"), format!("{low:.3}"));
    let margin = top.len().max(bottom.len());
    let (columns, rows) = (usize::from(width).saturating_sub(margin + 1), usize::from(height).saturating_sub(1));
    if columns == 0 || rows == 0 {
        return String::new();
    }
    // A character is 2 x 4 dots.
    let scale = |value: f64, end: f64, dots: usize| (value / end.max(f64::MIN_POSITIVE) * (dots - 1) as f64).round();
    let place = |(step, value): (f64, f64)| {
        let x = scale(step, last.0, 2 * columns).clamp(0.0, (2 * columns - 1) as f64);
        (x as usize, scale(high - value, high - low, 4 * rows).clamp(0.0, (4 * rows - 1) as f64) as usize)
    };
    let mut dots = vec![vec![0u8; columns]; rows];
    let mut dot = |(x, y): (usize, usize)| dots[y / 4][x / 2] |= DOTS[y % 4][x % 2];
    for pair in loss.windows(2) {
        let ((x0, y0), (x1, y1)) = (place(pair[0]), place(pair[1]));
        let n = x0.abs_diff(x1).max(y0.abs_diff(y1)).max(1);
        let between = |a: usize, b: usize, i: usize| (a * (n - i) + b * i + n / 2) / n;
        (0..=n).for_each(|i| dot((between(x0, x1, i), between(y0, y1, i))));
    }
    loss.first().into_iter().for_each(|p| dot(place(*p)));
    let mut cells: Vec<Vec<char>> = dots
        .into_iter()
        .map(|row| {
            row.into_iter()
                .map(|d| if d == 0 { ' ' } else { char::from_u32(0x2800 + u32::from(d)).unwrap_or(' ') })
                .collect()
        })
        .collect();
    for (x, y) in valid.iter().map(|p| place(*p)) {
        cells[y / 4][x / 2] = '\u{2022}';
    }
    let mut lines: Vec<String> = Vec::with_capacity(rows + 1);
    for (i, row) in cells.into_iter().enumerate() {
        let label = if i == 0 {
            &top
        } else if i + 1 == rows {
            &bottom
        } else {
            ""
        };
        lines.push(format!("{label:>margin$}\u{2502}{}", row.into_iter().collect::<String>()).trim_end().to_string());
    }
    let said = if valid.is_empty() { "0" } else { "0  (\u{2022} validation)" };
    let steps = format!("{:.0} steps", last.0);
    lines.push({
        let left = columns.saturating_sub(said.chars().count());
        format!("{:margin$}\u{2514}{said}{steps:>left$}", "")
    });
    lines.join("\n")
}

/// The bit of each dot of a braille character, by row and column.
const DOTS: [[u8; 2]; 4] = [[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]];

/// Legible on light and on dark ground.
const COLOURS: [RGBColor; 2] = [RGBColor(40, 130, 200), RGBColor(220, 110, 20)];

/// Curves against steps.
fn drawn(axis: &str, curves: &[(&str, &Curve)]) -> Result<Markup> {
    let thin: Vec<(&str, Curve)> = curves.iter().map(|(n, c)| (*n, thinned(c, POINTS))).collect();
    let Some((low, high)) = bounds(&thin.iter().map(|t| &t.1).collect::<Vec<_>>()) else {
        return Ok(html! { p { "no values yet" } });
    };
    let steps = thin.iter().flat_map(|t| t.1.iter()).map(|p| p.0).fold(1.0, f64::max);
    plot(axis, |area, narrow| -> Result<(), Box<dyn std::error::Error>> {
        let mut chart = chart(area, narrow, ("step", 0.0..steps), (axis, low..high))?;
        for ((name, curve), colour) in thin.iter().zip(COLOURS) {
            let line = chart.draw_series(LineSeries::new(curve.iter().copied(), colour.stroke_width(2)))?;
            line.label(*name).legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 16, y)], colour));
        }
        chart
            .configure_series_labels()
            .border_style(FAINT)
            .background_style(PAPER)
            .label_font(font(letters(narrow), &INK))
            .draw()?;
        Ok(())
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_sketch_falls_from_the_upper_left_to_the_lower_right() {
        let curve: Curve = (0..9).map(|i| (f64::from(i), 8.0 - f64::from(i))).collect();
        let text = sketch(&curve, &vec![(8.0, 0.5)], 40, 8);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines.len() == 8 && lines[0].starts_with("8.000") && text.contains("\n0.000"), "{text}");
        let drawn = |line: &str| line.chars().position(|c| ('\u{2801}'..='\u{28ff}').contains(&c));
        assert!(drawn(lines[0]).unwrap() < 8 && drawn(lines[5]).unwrap() > 20, "{text}");
        assert!(text.contains('\u{2022}') && text.contains("8 steps"), "{text}");
        assert!(sketch(&vec![(3.0, 1.0)], &Curve::new(), 40, 8).contains("1.000"));
        assert_eq!(sketch(&Curve::new(), &Curve::new(), 40, 8), "");
    }

    #[test]
    fn curves_are_read_thinned_and_drawn() {
        let temp = tempfile::tempdir().unwrap();
        let mut text: String = (1..=1000)
            .map(|s| format!("{{\"step\":{s},\"loss\":{},\"lr\":0.1,\"grad_norm\":1.0}}\n", 1001 - s))
            .collect();
        text.push_str("{\"step\":1000,\"valid\":2.5}\n{\"step\":10");
        std::fs::write(temp.path().join("metrics.jsonl"), text).unwrap();
        let all = Curves::read(temp.path()).unwrap();
        assert_eq!((all.loss.len(), &all.valid), (1000, &vec![(1000.0, 2.5)]));
        let thin = thinned(&all.loss, 100);
        assert!(thin.len() == 100 && thin[0] == (5.5, 995.5), "{:?}", thin[0]);
        assert_eq!(bounds(&[&all.loss, &all.valid]), Some((1.0, 1000.0)));
        assert_eq!(bounds(&[&Curve::new()]), None);
        write_page(temp.path(), "x", "seed = 1").unwrap();
        let page = std::fs::read_to_string(temp.path().join("report.html")).unwrap();
        assert!(page.contains("<svg") && page.contains("seed = 1") && page.contains("validation"));
        assert!(!page.contains("http-equiv") && !page.contains("src="), "nothing from outside");
    }
}
