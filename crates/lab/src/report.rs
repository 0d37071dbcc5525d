//! One self-contained HTML page: plots, table, and pictures of the tokens that stay. No outside resource.

use maud::{DOCTYPE, Markup, PreEscaped, html};
use plotters::prelude::*;
use switchformer_data::fashion::{Dataset, LABELS};
use switchformer_nn::{Point, Trace};
use switchformer_zoo::Opened;

use crate::error::{Error, Result};
use crate::measure::{Measured, fitted, on_front, pixels, predict};

/// Where and on what the figures were taken.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Setting {
    /// Name of the checkpoint.
    pub model: String,
    /// Processor.
    pub cpu: String,
    /// Instruction set of the kernels.
    pub isa: String,
    /// Threads.
    pub threads: usize,
    /// Data set and number of images.
    pub data: String,
    /// Timed repetitions per figure.
    pub reps: usize,
}

/// Pictures of one image: what was kept after each pruning layer.
pub struct Picture {
    /// Grey pixels, row-major.
    pub image: Vec<u8>,
    /// Height and width.
    pub size: (usize, usize),
    /// Right class.
    pub label: usize,
    /// Predicted class.
    pub predicted: usize,
    /// Patches kept after each pruning layer, original indices.
    pub kept: Vec<Vec<usize>>,
    /// Blocks that ran.
    pub depth: usize,
}

/// Runs the first `n` images at a point and collects what stays of each.
pub fn pictures(opened: &Opened, point: &Point, set: &Dataset, n: usize) -> Result<Vec<Picture>> {
    let set = &*fitted(opened, set)?;
    let n = n.min(set.len());
    let indices: Vec<u32> = (0..n as u32).collect();
    let (classes, trace) = predict(opened, point, &pixels(set, &indices, None)?)?;
    let host = opened.switches.host();
    let prefix = host.prefix_rows.unwrap_or(0) as u64;
    let all = indices.iter().map(|i| Picture {
        image: set.image(*i as usize).unwrap_or_default().to_vec(),
        size: (set.height(), set.width()),
        label: set.labels()[*i as usize].into(),
        predicted: classes[*i as usize],
        kept: kept(&trace, *i, prefix),
        depth: depth(&trace, *i, host.n_blocks),
    });
    Ok(all.collect())
}

fn kept(trace: &Trace, member: u32, prefix: u64) -> Vec<Vec<usize>> {
    let mine = trace.decisions.iter().filter(|d| d.switch == "tokens" && d.member == Some(member));
    mine.map(|d| {
        let rows = d.choice["kept"].as_array().into_iter().flatten().filter_map(|v| v.as_u64());
        rows.filter(|r| *r >= prefix).map(|r| (r - prefix) as usize).collect()
    })
    .collect()
}

fn depth(trace: &Trace, member: u32, n_blocks: usize) -> usize {
    let exits = trace.decisions.iter().filter(|d| d.switch == "exit");
    let mine = exits.filter(|d| d.member.is_none_or(|m| m == member)).filter_map(|d| d.choice["after"].as_u64()).next();
    mine.map_or(n_blocks, |v| v as usize)
}

/// The page.
pub fn page(
    opened: &Opened,
    setting: &Setting,
    points: &[Measured],
    pictures: &[Picture],
    shown: &str,
) -> Result<String> {
    let by_time = plot(points, "milliseconds per image, batch 32", |p| p.ms_batch32)?;
    let by_flops = plot(points, "MFLOPs per image", |p| p.flops / 1e6)?;
    let patch = opened.model.spec().image_size().map_or((1, 1), |(_, _, patch)| patch);
    let body = html! {
        h1 { "One checkpoint, " (points.len()) " operating points" }
        p { (setting.model) ", " (opened.n_params) " parameters in " (opened.file_bytes / 1024) " KiB of weights. "
            (setting.data) ". " (setting.cpu) ", " (setting.isa) ", " (setting.threads) " threads; medians of "
            (setting.reps) " batches." }
        h2 { "Accuracy against time" }
        div.plot { (PreEscaped(by_time)) }
        p.note { "The line joins the points that no other beats in both figures of the plot; " (STAR) " marks those of accuracy and time." }
        h2 { "Accuracy against work" }
        div.plot { (PreEscaped(by_flops)) }
        h2 { "All points" }
        (table(points))
        (notes())
        h2 { "Tokens kept at " code { (shown) } }
        p.note { "Each row of pictures: the image, then what stays after each pruning layer. Dropped patches are dimmed." }
        div.grid { @for p in pictures { (figure(p, patch)) } }
        script { (PreEscaped(SORT)) }
    };
    Ok(standalone(&setting.model, body).into_string())
}

/// A page of its own, without anything from elsewhere.
pub(crate) fn standalone(title: &str, body: Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { "Switchformer: " (title) }
                style { (PreEscaped(STYLE)) }
            }
            body { (body) }
        }
    }
}

/// Marks the front in tables.
pub const STAR: &str = "\u{2605}";

fn table(points: &[Measured]) -> Markup {
    html! {
        div.scroll { table {
            thead { tr {
                @for h in ["", "point", "accuracy %", "95 % interval", "ms, batch 1", "ms / image, batch 32", "images/s",
                    "MFLOPs / image", "depth", "weights needed KiB", "weights resident KiB", "peak MiB"] { th { (h) } }
            } }
            tbody { @for p in points { tr {
                td { @if p.pareto { (STAR) } }
                td title=(p.point.to_string()) { (p.name) }
                td { (format!("{:.2}", 100.0 * p.accuracy)) }
                td { (format!("{:.1} to {:.1}", 100.0 * p.accuracy_ci[0], 100.0 * p.accuracy_ci[1])) }
                td { (format!("{:.3}", p.ms_batch1)) }
                td { (format!("{:.3}", p.ms_batch32)) }
                td { (format!("{:.0}", p.images_per_s)) }
                td { (format!("{:.2}", p.flops / 1e6)) }
                td { (format!("{:.2}", p.mean_depth)) }
                td { (p.weight_bytes / 1024) }
                td { (p.resident_bytes / 1024) }
                td { (p.peak_memory >> 20) }
            } } }
        } }
    }
}

fn notes() -> Markup {
    html! {
        ul.note {
            li { "Bit-widths are views of the same stored 8-bit codes: a narrower view needs fewer bytes (weights needed), but "
                "all codes stay in memory (weights resident), and the kernels expand a view to floats, so fewer bits are not "
                "faster yet." }
            li { "FLOPs are counted while running: two per multiply-add of projections and attention products; ranking tokens "
                "is counted apart." }
            li { "Peak memory is that of the whole process while the point ran." }
        }
    }
}

/// One image and what stays of it after each pruning layer, as inline SVG.
fn figure(p: &Picture, patch: (usize, usize)) -> Markup {
    let name = |i: usize| LABELS.get(i).copied().unwrap_or("?");
    let right = p.label == p.predicted;
    let stages: Vec<Option<&Vec<usize>>> = std::iter::once(None).chain(p.kept.iter().map(Some)).collect();
    html! {
        figure {
            div.stages { @for kept in stages { (svg(p, kept.map(Vec::as_slice), patch)) } }
            figcaption { span.wrong[!right] { (name(p.predicted)) }
                @if !right { " (is " (name(p.label)) ")" } ", depth " (p.depth) }
        }
    }
}

fn svg(p: &Picture, kept: Option<&[usize]>, (ph, pw): (usize, usize)) -> Markup {
    let (h, w) = p.size;
    let mut body = String::new();
    for y in 0..h {
        for x in 0..w {
            let v = p.image[y * w + x];
            let patch = (y / ph) * (w / pw) + x / pw;
            let fill = match kept {
                Some(k) if !k.contains(&patch) => format!("#{0:02x}{0:02x}{1:02x}", v / 6 + 20, v / 6 + 45),
                _ if v == 0 => continue,
                _ => format!("#{v:02x}{v:02x}{v:02x}"),
            };
            body.push_str(&format!("<path d='M{x} {y}h1v1h-1z' fill='{fill}'/>"));
        }
    }
    html! { (PreEscaped(format!(
        "<svg viewBox='0 0 {w} {h}' shape-rendering='crispEdges' role='img'><rect width='{w}' height='{h}' fill='#000'/>{body}</svg>"
    ))) }
}

/// Colour by the switch that a point sets.
fn colour(p: &Measured) -> RGBColor {
    match p.point.axes().collect::<Vec<_>>().as_slice() {
        [] => RGBColor(90, 90, 90),
        ["bits"] => RGBColor(31, 119, 180),
        ["exit"] => RGBColor(214, 96, 20),
        ["tokens"] => RGBColor(44, 140, 60),
        _ => RGBColor(140, 70, 170),
    }
}

/// Accuracy against a cost, as SVG.
fn plot(points: &[Measured], axis: &str, cost: impl Fn(&Measured) -> f64) -> Result<String> {
    let bad = |e: String| Error::Report { what: e };
    let mut out = String::new();
    let top = points.iter().map(&cost).fold(0.0, f64::max) * 1.12 + 1e-9;
    let low = points.iter().map(|p| p.accuracy).fold(1.0, f64::min);
    let high = points.iter().map(|p| p.accuracy).fold(0.0, f64::max);
    let pad = (high - low).max(0.01) * 0.12;
    {
        let area = SVGBackend::with_string(&mut out, (860, 460)).into_drawing_area();
        let mut chart = ChartBuilder::on(&area)
            .margin(12)
            .x_label_area_size(42)
            .y_label_area_size(60)
            .build_cartesian_2d(0.0..top, 100.0 * (low - pad)..100.0 * (high + pad))
            .map_err(|e| bad(e.to_string()))?;
        chart
            .configure_mesh()
            .x_desc(axis)
            .y_desc("accuracy %")
            .light_line_style(TRANSPARENT)
            .draw()
            .map_err(|e| bad(e.to_string()))?;
        let pairs: Vec<(f64, f64)> = points.iter().map(|p| (cost(p), p.accuracy)).collect();
        let best = on_front(&pairs);
        let kept = pairs.iter().zip(&best).filter(|(_, on)| **on);
        let mut front: Vec<(f64, f64)> = kept.map(|((c, a), _)| (*c, 100.0 * a)).collect();
        front.sort_by(|a, b| a.0.total_cmp(&b.0));
        chart.draw_series(LineSeries::new(front, BLACK.mix(0.35).stroke_width(2))).map_err(|e| bad(e.to_string()))?;
        let dots = points.iter().zip(best).map(|(p, on)| {
            let (c, r) = (colour(p), if on { 6 } else { 4 });
            EmptyElement::at((cost(p), 100.0 * p.accuracy))
                + Circle::new((0, 0), r, c.filled())
                + Text::new(p.name.clone(), (8, -6), ("sans-serif", 12).into_font().color(&c))
        });
        chart.draw_series(dots).map_err(|e| bad(e.to_string()))?;
        area.present().map_err(|e| bad(e.to_string()))?;
    }
    Ok(out)
}

pub(crate) const STYLE: &str = "
:root{color-scheme:light dark;--fg:#1b1b1b;--bg:#fff;--soft:#f3f3f3;--line:#ddd}
@media(prefers-color-scheme:dark){:root{--fg:#e8e8e8;--bg:#161616;--soft:#222;--line:#333}}
body{font:15px/1.5 system-ui,sans-serif;color:var(--fg);background:var(--bg);max-width:1000px;margin:2rem auto;padding:0 1rem}
h1{font-size:1.6rem;line-height:1.2}h2{margin-top:2rem;font-size:1.2rem}
.plot{background:#fff;border:1px solid var(--line);border-radius:6px}.plot svg{display:block;width:100%;height:auto}
.scroll{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:13px}
th,td{padding:.3rem .6rem;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap}
th{cursor:pointer;white-space:normal;vertical-align:bottom;background:var(--soft)}td:nth-child(2),th:nth-child(2){text-align:left}
.note{font-size:13px;opacity:.8}
.grid{display:grid;grid-template-columns:repeat(auto-fill,minmax(280px,1fr));gap:14px}
figure{margin:0;background:var(--soft);border-radius:6px;padding:8px}figcaption{font-size:13px;margin-top:4px}
.stages{display:flex;gap:6px}.stages svg{flex:1;min-width:0;border-radius:3px}
.wrong{color:#d33;font-weight:600}
";

const SORT: &str = "
document.querySelectorAll('th').forEach((th,i)=>th.addEventListener('click',()=>{
const body=document.querySelector('tbody'),rows=[...body.rows],down=th.dataset.down!=='1';th.dataset.down=down?'1':'0';
const key=r=>{const t=r.cells[i].textContent,n=parseFloat(t);return isNaN(n)?t:n};
rows.sort((a,b)=>{const x=key(a),y=key(b);return (x<y?-1:x>y?1:0)*(down?-1:1)});rows.forEach(r=>body.append(r))}));
";
