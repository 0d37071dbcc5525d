//! Learning curves of a run: as one self-contained HTML page, and as a sketch on the terminal.

use std::path::Path;

use maud::{PreEscaped, html};
use plotters::prelude::*;
use serde_json::Value;
use switchformer_nn::store::write_atomic;

use crate::error::{Error, Result};
use crate::report::standalone;

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
    let loss = plot("loss", &[("training", &all.loss), ("validation", &all.valid)])?;
    let lr = plot("learning rate", &[("learning rate", &all.lr)])?;
    let norm = plot("norm of the gradient", &[("norm", &all.norm)])?;
    let last = |c: &Curve| c.last().map_or("none".to_string(), |p| format!("{:.4} at step {}", p.1, p.0));
    let body = html! {
        h1 { "Training of " (name) }
        p { "Last training loss: " (last(&all.loss)) ". Last validation loss: " (last(&all.valid)) "." }
        h2 { "Loss" }
        div.plot { (PreEscaped(loss)) }
        h2 { "Learning rate" }
        div.plot { (PreEscaped(lr)) }
        h2 { "Gradient" }
        div.plot { (PreEscaped(norm)) }
        h2 { "Recipe" }
        pre { (recipe) }
    };
    let page = standalone(name, body);
    Ok(write_atomic(&run.join("report.html"), page.into_string().as_bytes())?)
}

/// Lowest of the characters that show two by four dots, and the bit of each dot by column and row.
const BRAILLE: u32 = 0x2800;
const DOTS: [[u32; 4]; 2] = [[0x01, 0x02, 0x04, 0x40], [0x08, 0x10, 0x20, 0x80]];

/// A curve in `width` by `height` characters, with the largest and smallest value beside it; empty without values.
pub fn sketch(curve: &Curve, width: usize, height: usize) -> String {
    let thin = thinned(curve, 2 * width);
    let (Some((low, high)), Some(last)) = (bounds(&[&thin]), thin.last()) else { return String::new() };
    let first = thin[0].0;
    let mut cells = vec![vec![BRAILLE; width]; height];
    for (x, y) in &thin {
        let across = (x - first) / (last.0 - first).max(1e-9) * (2 * width - 1) as f64;
        let down = (high - y) / (high - low) * (4 * height - 1) as f64;
        let (column, row) = (across.round() as usize, down.round() as usize);
        cells[row / 4][column / 2] |= DOTS[column % 2][row % 4];
    }
    let mut lines: Vec<String> =
        cells.iter().map(|row| row.iter().filter_map(|c| char::from_u32(*c)).collect()).collect();
    lines[0].push_str(&format!(" {high:.3}"));
    if height > 1 {
        lines[height - 1].push_str(&format!(" {low:.3}"));
    }
    lines.join("\n")
}

const COLOURS: [RGBColor; 2] = [RGBColor(31, 119, 180), RGBColor(214, 96, 20)];

/// Curves against steps, as SVG.
fn plot(axis: &str, curves: &[(&str, &Curve)]) -> Result<String> {
    let bad = |e: String| Error::Report { what: e };
    let thin: Vec<(&str, Curve)> = curves.iter().map(|(n, c)| (*n, thinned(c, POINTS))).collect();
    let Some((low, high)) = bounds(&thin.iter().map(|t| &t.1).collect::<Vec<_>>()) else {
        return Ok("<p>no values yet</p>".into());
    };
    let steps = thin.iter().flat_map(|t| t.1.iter()).map(|p| p.0).fold(1.0, f64::max);
    let mut out = String::new();
    {
        let area = SVGBackend::with_string(&mut out, (860, 320)).into_drawing_area();
        let mut chart = ChartBuilder::on(&area)
            .margin(12)
            .x_label_area_size(42)
            .y_label_area_size(70)
            .build_cartesian_2d(0.0..steps, low..high)
            .map_err(|e| bad(e.to_string()))?;
        let mut mesh = chart.configure_mesh();
        mesh.x_desc("step").y_desc(axis).light_line_style(TRANSPARENT);
        mesh.draw().map_err(|e| bad(e.to_string()))?;
        for ((name, curve), colour) in thin.into_iter().zip(COLOURS) {
            let line = LineSeries::new(curve, colour.stroke_width(2));
            let drawn = chart.draw_series(line).map_err(|e| bad(e.to_string()))?;
            drawn.label(name).legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 16, y)], colour));
        }
        let mut labels = chart.configure_series_labels();
        labels.border_style(BLACK.mix(0.3)).background_style(WHITE).draw().map_err(|e| bad(e.to_string()))?;
        area.present().map_err(|e| bad(e.to_string()))?;
    }
    Ok(out)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_sketch_falls_from_the_upper_left_to_the_lower_right() {
        let curve: Curve = (0..8).map(|i| (f64::from(i), 8.0 - f64::from(i))).collect();
        let text = sketch(&curve, 4, 2);
        let lines: Vec<Vec<char>> = text.lines().map(|l| l.chars().collect()).collect();
        assert!(text.contains(" 8.000") && text.contains(" 1.000"), "{text}");
        assert!(lines[0][0] != '\u{2800}' && lines[0][3] == '\u{2800}', "{text}");
        assert!(lines[1][0] == '\u{2800}' && lines[1][3] != '\u{2800}', "{text}");
        assert!(sketch(&vec![(3.0, 1.0)], 4, 2).contains("1.000"));
        assert_eq!(sketch(&Curve::new(), 4, 2), "");
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
