//! One self-contained HTML page and its plots. No outside resource; light and dark; a plot is drawn once for wide windows and
//! once for narrow ones.

use std::ops::Range;

use maud::{DOCTYPE, Markup, PreEscaped, html};
use plotters::coord::Shift;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;

use crate::error::{Error, Result};

/// A page of its own, without anything from elsewhere.
pub(crate) fn standalone(title: &str, body: &Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { "Switchformer: " (title) }
                style { (PreEscaped(STYLE)) }
            }
            body { (body) }
        }
    }
}

/// What a plot is drawn on.
pub(crate) type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Width and height of the two drawings of a plot.
const WIDE: (u32, u32) = (900, 460);
const NARROW: (u32, u32) = (350, 330);

/// Colours that stand for those of the page: [`plot`] replaces them, so that dark windows show light text on dark ground.
pub(crate) const INK: RGBColor = RGBColor(1, 1, 1);
pub(crate) const FAINT: RGBColor = RGBColor(2, 2, 2);
pub(crate) const PAPER: RGBColor = RGBColor(3, 3, 3);

/// A plot in both sizes. `draw` is told whether it draws the narrow one.
pub(crate) fn plot<E>(label: &str, draw: impl Fn(&Area, bool) -> Result<(), E>) -> Result<Markup>
where
    E: std::fmt::Display,
{
    let one = |size: (u32, u32), narrow: bool| -> Result<String> {
        let mut svg = String::new();
        {
            let area = SVGBackend::with_string(&mut svg, size).into_drawing_area();
            let bad = |what: String| Error::Report { what };
            draw(&area, narrow).map_err(|e| bad(e.to_string()))?;
            area.present().map_err(|e| bad(e.to_string()))?;
        }
        for (colour, name) in [("#010101", "--fg"), ("#020202", "--line"), ("#030303", "--bg")] {
            for part in ["fill", "stroke"] {
                svg = svg.replace(&format!("{part}=\"{colour}\""), &format!("style=\"{part}:var({name})\""));
            }
        }
        Ok(svg)
    };
    let (wide, narrow) = (one(WIDE, false)?, one(NARROW, true)?);
    Ok(html! {
        div.plot.wide role="img" aria-label=(label) { (PreEscaped(wide)) }
        div.plot.narrow role="img" aria-label=(label) { (PreEscaped(narrow)) }
    })
}

/// Axes and grid of a plot.
pub(crate) type Chart<'a> = ChartContext<'a, SVGBackend<'a>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;

/// Size of the letters of a plot.
pub(crate) fn letters(narrow: bool) -> i32 {
    if narrow { 11 } else { 13 }
}

/// A chart with its axes drawn, in the look that all plots share.
pub(crate) fn chart<'a>(
    area: &Area<'a>,
    narrow: bool,
    (x_title, x): (&str, Range<f64>),
    (y_title, y): (&str, Range<f64>),
) -> Result<Chart<'a>, Box<dyn std::error::Error>> {
    let style = font(letters(narrow), &INK);
    let mut chart = ChartBuilder::on(area)
        .margin(10)
        .x_label_area_size(44)
        .y_label_area_size(if narrow { 54 } else { 70 })
        .build_cartesian_2d(x, y)?;
    chart
        .configure_mesh()
        .x_desc(x_title)
        .y_desc(y_title)
        .x_labels(if narrow { 4 } else { 10 })
        .label_style(style.clone())
        .axis_desc_style(style)
        .axis_style(INK)
        .bold_line_style(FAINT)
        .light_line_style(TRANSPARENT)
        .draw()?;
    Ok(chart)
}

/// Text of a plot.
pub(crate) fn font<'a>(size: i32, colour: &'a RGBColor) -> TextStyle<'a> {
    ("system-ui, sans-serif", size).into_font().color(colour)
}

/// A box on a plot, in pixels: left, top, right, bottom.
pub(crate) type Frame = [i32; 4];

/// Where labels may stand: beside their dots, inside the plot, on no dot and on no other label.
pub(crate) struct Labels {
    inside: Frame,
    taken: Vec<Frame>,
    size: i32,
}

impl Labels {
    /// No label yet. `dots`: centres and radii in pixels.
    pub(crate) fn new(inside: Frame, dots: &[((i32, i32), i32)], size: i32) -> Labels {
        let taken = dots.iter().map(|((x, y), r)| [x - r, y - r, x + r, y + r]).collect();
        Labels { inside, taken, size }
    }

    /// The upper left corner for a text beside a dot; `None` where there is no room.
    pub(crate) fn place(&mut self, (x, y): (i32, i32), radius: i32, text: &str) -> Option<(i32, i32)> {
        // Sans-serif letters are a little over half as wide as high.
        let (w, h) = ((text.chars().count() as f64 * f64::from(self.size) * 0.56) as i32 + 2, self.size + 2);
        let tries = (0..4).flat_map(|far| {
            let gap = radius + 3 + far * (h / 2);
            [
                (x + gap, y - h / 2),
                (x - gap - w, y - h / 2),
                (x - w / 2, y - gap - h),
                (x - w / 2, y + gap),
                (x + gap, y - gap - h / 2),
                (x + gap, y + gap - h / 2),
                (x - gap - w, y - gap - h / 2),
                (x - gap - w, y + gap - h / 2),
            ]
        });
        for (left, top) in tries {
            let frame = [left, top, left + w, top + h];
            let [l, t, r, b] = self.inside;
            let fits = frame[0] >= l && frame[1] >= t && frame[2] <= r && frame[3] <= b;
            let apart = |o: &Frame| frame[2] <= o[0] || o[2] <= frame[0] || frame[3] <= o[1] || o[3] <= frame[1];
            if fits && self.taken.iter().all(apart) {
                self.taken.push(frame);
                return Some((left, top));
            }
        }
        None
    }
}

const STYLE: &str = "
:root{color-scheme:light dark;--fg:#1b1b1b;--bg:#fff;--soft:#f3f3f3;--line:#d8d8d8;--quiet:#595959;--bad:#b3261e}
@media(prefers-color-scheme:dark){:root{--fg:#e8e8e8;--bg:#161616;--soft:#222;--line:#3a3a3a;--quiet:#a8a8a8;--bad:#ff8a80}}
*{box-sizing:border-box}
body{font:16px/1.5 system-ui,sans-serif;color:var(--fg);background:var(--bg);max-width:1120px;margin:2rem auto;padding:0 1rem;overflow-wrap:anywhere}
h1{font-size:1.7rem;line-height:1.25}h2{margin-top:2.2rem;font-size:1.25rem}
pre,code{font:14px/1.45 ui-monospace,monospace}pre{background:var(--soft);padding:.7rem .9rem;border-radius:6px;white-space:pre-wrap}
.lead{font-size:1.1rem}.note,dl.facts{font-size:14px;color:var(--quiet)}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.15rem 1rem}dt{font-weight:600}dd{margin:0}
.plot{border:1px solid var(--line);border-radius:6px}.plot svg{display:block;width:100%;height:auto}
.narrow{display:none}
@media(max-width:640px){.wide{display:none}.narrow{display:block}body{margin:1rem auto}h1{font-size:1.35rem}dl{grid-template-columns:1fr;gap:0}dd{margin-bottom:.4rem}}
.scroll{overflow-x:auto;border:1px solid var(--line);border-radius:6px}
table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:13px;width:100%}
th,td{padding:.3rem .5rem;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap}
th{vertical-align:bottom;background:var(--soft);white-space:normal;overflow-wrap:normal}
thead th{min-width:4.2rem}
th button{all:unset;cursor:pointer}th button:focus-visible{outline:2px solid}
tbody th,thead th:first-child{text-align:left;position:sticky;left:0;background:var(--soft);z-index:1;font-weight:600;white-space:nowrap}
tr.front td,tr.front th{font-weight:600}
@media(max-width:640px){tbody th{white-space:normal;max-width:8rem;min-width:8rem}}
.grid{display:grid;grid-template-columns:repeat(auto-fill,minmax(280px,1fr));gap:14px}
figure{margin:0;background:var(--soft);border-radius:6px;padding:8px}figcaption{font-size:14px;margin-top:4px}
.stages{display:flex;gap:6px}.stages svg{flex:1;min-width:0;border-radius:3px}
.wrong{color:var(--bad);font-weight:600}.gone{opacity:.4;text-decoration:line-through}
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_stand_inside_and_apart() {
        let dots = [((50, 50), 4), ((52, 52), 4), ((98, 50), 4)];
        let mut labels = Labels::new([0, 0, 200, 100], &dots, 10);
        let frames: Vec<Frame> = dots
            .iter()
            .filter_map(|(at, r)| labels.place(*at, *r, "bits-4"))
            .map(|(x, y)| [x, y, x + 35, y + 12])
            .collect();
        assert_eq!(frames.len(), 3);
        for (i, a) in frames.iter().enumerate() {
            assert!(a[0] >= 0 && a[1] >= 0 && a[2] <= 200 && a[3] <= 100);
            let apart = |b: &Frame| a[2] <= b[0] || b[2] <= a[0] || a[3] <= b[1] || b[3] <= a[1];
            assert!(frames[..i].iter().all(apart), "{frames:?}");
        }
        let mut small = Labels::new([0, 0, 20, 10], &dots[..1], 10);
        assert_eq!(small.place((10, 5), 4, "a long name"), None);
    }
}
