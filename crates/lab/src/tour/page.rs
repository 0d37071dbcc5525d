//! The report of a tour: what to use, plots, table, and what a pruned model looked at.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use maud::{Markup, PreEscaped, html};
use plotters::prelude::*;
use serde::Serialize;
use switchformer_data::fashion::LABELS;
use switchformer_data::{Picture as Pixels, image};
use switchformer_infer::Session;
use switchformer_nn::error::visible;
use switchformer_nn::{Output, Trace};
use switchformer_tensor::Tensor;

use super::{Measured, Quality, Samples, Spread, Tour, Verdict};
use crate::error::Result;
use crate::measure::argmax;
use crate::page::{INK, Labels, PAPER, chart, font, letters, plot, standalone};

/// Pictures of a report.
const PICTURES: usize = 12;

/// Where and on what the figures were taken.
#[derive(Clone, Debug, Serialize)]
pub struct Setting {
    /// Name of the checkpoint, as it was given.
    pub model: String,
    /// Family and number of blocks.
    pub family: String,
    /// Parameters.
    pub params: u64,
    /// Bytes of the weight files.
    pub file_bytes: u64,
    /// Processor.
    pub cpu: String,
    /// Instruction set of the kernels.
    pub isa: String,
    /// Threads.
    pub threads: usize,
    /// What it was measured on.
    pub data: String,
    /// Timed rounds.
    pub rounds: usize,
    /// When, in UTC.
    pub date: String,
    /// Version and commit of the program.
    pub version: String,
    /// The command that makes the same report.
    pub command: String,
    /// What a sample is: `image` or `text`.
    pub things: &'static str,
    /// The command that runs the recommended point on one input, where there is one.
    pub use_it: Option<String>,
}

/// One sample, and what stayed of it.
#[derive(Clone, Debug)]
pub struct Picture {
    content: Content,
    /// The class that its label names, where it has one.
    truth: Option<String>,
    /// The answer and its probability, where the model tells classes.
    answer: Option<(String, f64)>,
    /// Places kept after each pruning layer.
    kept: Vec<Vec<usize>>,
    depth: usize,
}

/// What a sample looks like.
#[derive(Clone, Debug)]
enum Content {
    /// An image as the model sees it, in PNG, with its size and that of a patch (height, width).
    Image { png: Vec<u8>, size: (usize, usize), patch: (usize, usize) },
    /// Pieces of a text, one per token.
    Text(Vec<String>),
}

/// The first samples of a batch of `n`, and what stayed of each.
pub(super) fn pictures(
    session: &Session,
    samples: &Samples,
    out: &Output,
    trace: &Trace,
    n: usize,
) -> Result<Vec<Picture>> {
    let n = n.min(PICTURES);
    let input = samples.input(session, 0..n)?;
    let host = session.opened.switches.host();
    let prefix = host.prefix_rows.unwrap_or(0);
    let config = &session.opened.config;
    let name = |i: usize| match samples {
        Samples::Labelled(_) => LABELS.get(i).map_or_else(|| i.to_string(), ToString::to_string),
        _ => config.label(i),
    };
    let contents: Vec<Content> = match (samples, session.opened.model.spec().image_size()) {
        (Samples::Texts(texts), _) => {
            let texts: Vec<String> = texts[..n].iter().map(|t| format!("{}{t}", session.default_prompt())).collect();
            let encoded = session.tokenizer()?.encode(&texts.iter().map(String::as_str).collect::<Vec<_>>())?;
            // A piece begins where the one before it ended, so that all together are the text.
            let pieces = |text: &str, offsets: &[(usize, usize)]| {
                let mut from = 0;
                let piece = |(a, b): &(usize, usize)| {
                    let start = from.min(*a);
                    from = from.max(*b);
                    text.get(start..*b).unwrap_or_default().to_owned()
                };
                offsets.iter().map(piece).collect()
            };
            encoded.iter().zip(&texts).map(|(e, text)| Content::Text(pieces(text, &e.offsets))).collect()
        }
        (_, Ok((channels, _, patch))) => {
            let all = input.pixels(channels)?;
            all.iter().map(|t| seen(t, patch)).collect::<Result<Vec<_>>>()?.into_iter().flatten().collect()
        }
        (_, Err(_)) => Vec::new(),
    };
    let one = |(i, content): (usize, Content)| {
        let scores = out.of("logits", i).ok().filter(|t| t.dims().len() == 1).and_then(|t| t.to_vec1::<f32>().ok());
        // Texts keep every row that is a token, special ones too; images have rows before their patches.
        let prefix = if matches!(content, Content::Text(_)) { 0 } else { prefix };
        Picture {
            truth: match samples {
                Samples::Labelled(set) => set.labels().get(i).map(|l| name(usize::from(*l))),
                _ => None,
            },
            answer: scores.map(|s| (name(argmax(&s)), probability(&s))),
            kept: kept(trace, i as u32, prefix as u64),
            depth: depth(trace, i as u32, host.n_blocks),
            content,
        }
    };
    Ok(contents.into_iter().enumerate().map(one).collect())
}

/// Probability of the likeliest class.
fn probability(scores: &[f32]) -> f64 {
    let top = scores.iter().copied().fold(f32::MIN, f32::max);
    1.0 / scores.iter().map(|s| f64::from(s - top).exp()).sum::<f64>()
}

/// Images `[c, h, w]` or `[b, c, h, w]` as the model sees them, each stretched from its darkest to its lightest value.
fn seen(pixels: &Tensor, patch: (usize, usize)) -> Result<Vec<Content>> {
    let all = match pixels.dims() {
        [b, ..] if pixels.dims().len() == 4 => (0..*b).map(|i| Ok(pixels.get(i)?)).collect::<Result<Vec<_>>>()?,
        _ => vec![pixels.clone()],
    };
    let one = |t: Tensor| -> Result<Content> {
        let (c, h, w) = match t.dims() {
            [c, h, w] => (*c, *h, *w),
            _ => (0, 0, 0),
        };
        let values = t.flatten_all()?.to_vec1::<f32>()?;
        let (low, high) = values.iter().fold((f32::MAX, f32::MIN), |(l, h), v| (l.min(*v), h.max(*v)));
        let byte = |v: f32| (255.0 * (v - low) / (high - low).max(f32::MIN_POSITIVE)).round() as u8;
        let shown = if c == 3 { 3 } else { 1 };
        let data = (0..h * w).flat_map(|at| (0..shown).map(move |k| k * h * w + at)).map(|i| byte(values[i])).collect();
        let png = image::png(&Pixels::new(w, h, shown, data)?)?;
        Ok(Content::Image { png, size: (h, w), patch })
    };
    all.into_iter().map(one).collect()
}

fn kept(trace: &Trace, member: u32, prefix: u64) -> Vec<Vec<usize>> {
    let mine = trace.decisions.iter().filter(|d| d.switch == "tokens" && d.member == Some(member));
    mine.map(|d| {
        let rows = d.choice["kept"].as_array().into_iter().flatten().filter_map(serde_json::Value::as_u64);
        rows.filter(|r| *r >= prefix).map(|r| (r - prefix) as usize).collect()
    })
    .collect()
}

fn depth(trace: &Trace, member: u32, n_blocks: usize) -> usize {
    let exits = trace.decisions.iter().filter(|d| d.switch == "exit");
    let mine = exits.filter(|d| d.member.is_none_or(|m| m == member)).filter_map(|d| d.choice["after"].as_u64()).next();
    mine.map_or(n_blocks, |v| v as usize)
}

/// Marks Pareto-optimal points.
pub const STAR: &str = "\u{2605}";
/// Marks times that tell nothing.
pub const NOISY: &str = "~";

/// The sentence that a reader should take away.
pub fn headline(tour: &Tour, setting: &Setting) -> String {
    let found = tour.recommended.as_ref().and_then(|name| tour.points.iter().find(|p| p.name == *name));
    let n = tour.points.first().map_or(0, |p| p.n);
    let things = format!("{}s", setting.things);
    if n < super::compare::LEAST {
        let least = super::compare::LEAST;
        return format!("{n} {things} are too few to recommend a point: give {least} or more.");
    }
    match (found, tour.quality) {
        (Some(p), Quality::Accuracy) => format!(
            "At {} this model is {:.1} times as fast as at full; on {n} {things} its accuracy is {:.1} %, at full {:.1} %.",
            p.name,
            p.speedup_batch32.median,
            100.0 * p.quality,
            100.0 * tour.points[0].quality
        ),
        (Some(p), Quality::Agreement) => format!(
            "At {} this model is {:.1} times as fast as at full and gives the same answer to {:.1} % of {n} {things}.",
            p.name,
            p.speedup_batch32.median,
            100.0 * p.quality
        ),
        (Some(p), Quality::Cosine) => format!(
            "At {} this model is {:.1} times as fast as at full; the vectors of {n} {things} have a cosine of {:.3} with those at full.",
            p.name, p.speedup_batch32.median, p.quality
        ),
        (None, Quality::Accuracy) => {
            format!("No point is clearly faster than full without losing accuracy on these {n} {things}.")
        }
        (None, _) => format!("No point is clearly faster than full and gives the same answers to these {n} {things}."),
    }
}

/// What to say of times on a busy machine; `None` where most times can be trusted.
pub fn warning(tour: &Tour) -> Option<String> {
    let noisy = tour.points.iter().filter(|p| p.noisy).count();
    (noisy > 0).then(|| {
        format!(
            "The machine was busy: the times of {noisy} of {} points varied much ({NOISY}). Run it again on a quiet machine, or \
             with more rounds (--rounds).",
            tour.points.len()
        )
    })
}

/// The page.
pub fn page(tour: &Tour, setting: &Setting) -> Result<String> {
    let things = setting.things;
    let by_time =
        scatter(tour, &format!("milliseconds per {things}, batches of {}", tour.batch), |p| p.ms_batch32.median)?;
    let by_work = scatter(tour, &format!("million floating-point operations per {things}"), |p| p.flops / 1e6)?;
    let body = html! {
        h1 { "One checkpoint, " (tour.points.len()) " operating points" }
        p.lead { (headline(tour, setting)) }
        @if let Some(command) = &setting.use_it { pre { (visible(command)) } }
        @if let Some(warning) = warning(tour) { p.wrong { (warning) } }
        dl.facts {
            dt { "Model" } dd { (setting.model) ": " (setting.family) ", " (setting.params) " parameters, " (kib(setting.file_bytes)) " KiB of weights" }
            dt { "Measured on" } dd { (setting.data) }
            dt { "Machine" } dd { (setting.cpu) ", " (setting.isa) " kernels, " (setting.threads) " threads" }
            dt { "Method" } dd { (setting.rounds) " rounds; in each every point runs once, in turn" }
            dt { "When" } dd { (setting.date) ", " (setting.version) }
            dt { "Command" } dd { code { (setting.command) } }
        }
        h2 { (upper(tour.quality.title())) " against time" }
        (by_time)
        p.note { "Large dots are Pareto-optimal (" (STAR) "). Colours: grey nothing is switched, blue bits, orange exit, green "
            "tokens, purple heads, red several switches." }
        h2 { (upper(tour.quality.title())) " against computation" }
        (by_work)
        h2 { "All points" }
        (table(tour, things))
        (legend(tour))
        @if !tour.pictures.is_empty() {
            h2 { "What stays at " (tour.shown.name) }
            p.note { code { (tour.shown.point) } ". "
                @if things == "image" { "Each row: the image, then what stays after each pruning layer; dropped patches are dimmed. " }
                @else { "Dropped tokens are struck through. " }
                "Below: the answer and its probability, whether the label agrees, and the number of blocks that ran." }
            div.grid { @for p in &tour.pictures { (figure(p)) } }
        }
        script { (PreEscaped(SORT)) }
    };
    Ok(standalone(&setting.model, &body).into_string())
}

fn upper(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().collect::<String>() + chars.as_str())
}

/// A median with its quartiles.
pub fn spread(s: &Spread) -> String {
    format!("{:.2} ({:.2}-{:.2})", s.median, s.q1, s.q3)
}

/// Bytes in KiB, rounded.
pub fn kib(bytes: u64) -> u64 {
    (bytes + 512) / 1024
}

/// How a verdict is told.
pub fn told(kind: Quality, verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Full => "",
        Verdict::AsGood if kind == Quality::Accuracy => "no loss seen",
        Verdict::AsGood => "as good",
        Verdict::Worse => "worse",
        Verdict::Better => "better",
    }
}

/// A quality in per cent.
pub fn percent(kind: Quality, value: f64) -> String {
    match kind {
        Quality::Cosine => format!("{:.2}", 100.0 * value),
        _ => format!("{:.1}", 100.0 * value),
    }
}

fn table(tour: &Tour, things: &str) -> Markup {
    let heads = [
        "point".to_string(),
        tour.quality.title().into(),
        "95 % interval".into(),
        "against full".into(),
        format!("speed-up, batch {}", tour.batch),
        format!("ms / {things}, batch {}", tour.batch),
        "ms, batch 1".into(),
        "speed-up, batch 1".into(),
        format!("MFLOP / {things}"),
        "blocks".into(),
        "weights KiB".into(),
        "in memory KiB".into(),
    ];
    html! {
        div.scroll { table {
            thead { tr { @for h in heads { th scope="col" { button type="button" { (h) } } } } }
            tbody { @for p in &tour.points { tr.front[p.front] {
                th scope="row" title=(p.point.to_string()) { (p.name) @if p.front { " " (STAR) } }
                td { (percent(tour.quality, p.quality)) }
                td { (percent(tour.quality, p.quality_ci[0])) " to " (percent(tour.quality, p.quality_ci[1])) }
                td { (told(tour.quality, p.verdict)) }
                td { (spread(&p.speedup_batch32)) @if p.noisy { " " (NOISY) } }
                td title=(format!("quartiles {:.3} to {:.3}", p.ms_batch32.q1, p.ms_batch32.q3)) { (format!("{:.3}", p.ms_batch32.median)) }
                td title=(format!("quartiles {:.3} to {:.3}", p.ms_batch1.q1, p.ms_batch1.q3)) { (format!("{:.3}", p.ms_batch1.median)) }
                td { (spread(&p.speedup_batch1)) }
                td { (format!("{:.2}", p.flops / 1e6)) }
                td { (format!("{:.2}", p.mean_depth)) }
                td { (kib(p.weight_bytes)) }
                td { (kib(p.resident_bytes)) }
            } } }
        } }
    }
}

fn legend(tour: &Tour) -> Markup {
    let quality = match tour.quality {
        Quality::Accuracy => {
            "Accuracy is the share of samples answered as their label says. \"No loss seen\": a paired test (McNemar, 5 %) finds no difference from full on the same samples; few samples find little."
        }
        Quality::Agreement => "Agreement is the share of answers equal to those at full. \"As good\": at least 99 %.",
        Quality::Cosine => {
            "Cosine is between the vector at this point and the one at full, on average. \"As good\": at least 0.99."
        }
    };
    html! {
        ul.note {
            li { (STAR) " Pareto-optimal: no other point is clearly faster and as good, or better and as fast, by paired tests." }
            li { (NOISY) " Times varied much: the quartiles of the speed-up (of full: of its times) lie more than a quarter of the median apart. Medians of such points may mislead; the recommendation asks that three rounds in four were faster." }
            li { (quality) }
            li { "Times are medians; a speed-up is the median of ratios to full in the same round, in brackets the quartiles. Hold the pointer over a time for its quartiles, and over a name for the point as JSON." }
            li { "MFLOP: two operations per multiply-add, counted while running; ranking tokens is not included." }
            li { "Weights: what the point needs, where a 4-bit weight counts 4 bits and a word table counts whole. In memory: the stored 8-bit integers stay whole at every width." }
            @if !tour.left_out.is_empty() { li { "Left out, because some tokens have no answer there: " (tour.left_out.join(", ")) "." } }
        }
        h2 { "Names" }
        dl { @for p in &tour.points { dt { (p.name) } dd { (p.about) } } }
    }
}

/// One sample and what stays of it.
fn figure(p: &Picture) -> Markup {
    let wrong = p.truth.as_ref().zip(p.answer.as_ref()).is_some_and(|(truth, (answer, _))| truth != answer);
    html! {
        figure {
            @match &p.content {
                Content::Image { png, size, patch } => {
                    div.stages {
                        (svg(png, *size, None, *patch))
                        @for kept in &p.kept { (svg(png, *size, Some(kept), *patch)) }
                    }
                }
                Content::Text(pieces) => {
                    p { @for (i, piece) in pieces.iter().enumerate() {
                        span.gone[p.kept.last().is_some_and(|kept| !kept.contains(&i))] { (visible(piece)) }
                    } }
                }
            }
            figcaption {
                @if let Some((answer, sure)) = &p.answer {
                    span.wrong[wrong] { (visible(answer)) } (format!(" {:.0} %", 100.0 * sure))
                    @match &p.truth {
                        Some(truth) if wrong => { ", label " (truth) }
                        Some(_) => { ", as labelled" }
                        None => {}
                    }
                    ", "
                }
                (p.depth) " blocks"
            }
        }
    }
}

/// An image with the patches dimmed that are not kept.
fn svg(png: &[u8], (h, w): (usize, usize), kept: Option<&Vec<usize>>, (ph, pw): (usize, usize)) -> Markup {
    let across = w / pw.max(1);
    let gone = (0..across * (h / ph.max(1))).filter(|i| kept.is_some_and(|k| !k.contains(i)));
    let path: String = gone.map(|i| format!("M{} {}h{pw}v{ph}h-{pw}z", i % across * pw, i / across * ph)).collect();
    let data = format!("data:image/png;base64,{}", BASE64.encode(png));
    html! {
        svg viewBox=(format!("0 0 {w} {h}")) role="img" {
            image href=(data) width=(w) height=(h) style="image-rendering:pixelated" {}
            path d=(path) fill="#101830" fill-opacity="0.82" {}
        }
    }
}

/// Colour by the switches that a point sets; all are legible on light and on dark ground.
fn colour(p: &Measured) -> RGBColor {
    match p.point.axes().collect::<Vec<_>>().as_slice() {
        [] => RGBColor(125, 125, 125),
        ["bits" | "activation_bits"] => RGBColor(40, 130, 200),
        ["exit"] => RGBColor(220, 110, 20),
        ["tokens"] => RGBColor(50, 150, 70),
        ["heads"] => RGBColor(150, 95, 200),
        _ => RGBColor(215, 60, 80),
    }
}

/// Quality against a cost.
fn scatter(tour: &Tour, axis: &str, cost: impl Fn(&Measured) -> f64) -> Result<Markup> {
    let points = &tour.points;
    let top = points.iter().map(&cost).fold(0.0, f64::max) * 1.08 + 1e-9;
    let (low, high) = points.iter().fold((1.0f64, 0.0f64), |(l, h), p| (l.min(p.quality), h.max(p.quality)));
    let pad = (high - low).max(0.01) * 0.14;
    let pairs: Vec<(f64, f64)> = points.iter().map(|p| (cost(p), p.quality)).collect();
    let best: Vec<bool> = points.iter().map(|p| p.front).collect();
    let label = format!("{} against {axis}", tour.quality.title());
    plot(&label, |area, narrow| -> Result<(), Box<dyn std::error::Error>> {
        let size = letters(narrow);
        let percent = 100.0 * (low - pad)..100.0 * (high + pad);
        let chart = chart(area, narrow, (axis, 0.0..top), (tour.quality.title(), percent))?;
        let at = |i: usize| chart.plotting_area().map_coordinate(&(pairs[i].0, 100.0 * pairs[i].1));
        let radius = |i: usize| if best[i] { 6 } else { 4 };
        let dots: Vec<((i32, i32), i32)> = (0..points.len()).map(|i| (at(i), radius(i))).collect();
        let (xs, ys) = chart.plotting_area().get_pixel_range();
        let mut labels = Labels::new([xs.start, ys.start, xs.end, ys.end], &dots, size);
        // Pareto-optimal points choose first; a narrow plot names no others but `full`.
        let mut order: Vec<usize> = (0..points.len()).collect();
        order.sort_by_key(|i| (!best[*i], *i != 0, *i));
        for (i, p) in points.iter().enumerate() {
            area.draw(&Circle::new(at(i), radius(i) + 1, PAPER.filled()))?;
            area.draw(&Circle::new(at(i), radius(i), colour(p).filled()))?;
        }
        for i in order.into_iter().filter(|i| !narrow || best[*i] || *i == 0) {
            if let Some(corner) = labels.place(at(i), radius(i), &points[i].name) {
                // A label that found no room beside its dot is tied to it.
                let (dot, width) = (at(i), size * points[i].name.chars().count() as i32 / 2);
                let edge = (dot.0.clamp(corner.0, corner.0 + width), dot.1.clamp(corner.1, corner.1 + size));
                if (edge.0 - dot.0).abs().max((edge.1 - dot.1).abs()) > radius(i) + 6 {
                    area.draw(&PathElement::new(vec![dot, edge], INK.mix(0.4)))?;
                }
                area.draw(&Text::new(points[i].name.clone(), corner, font(size, &INK)))?;
            }
        }
        Ok(())
    })
}

const SORT: &str = "
document.querySelectorAll('thead th').forEach((th,i)=>th.addEventListener('click',()=>{
const body=document.querySelector('tbody'),rows=[...body.rows],down=th.dataset.down!=='1';th.dataset.down=down?'1':'0';
const key=r=>{const t=r.cells[i].textContent,n=parseFloat(t);return isNaN(n)?t:n};
rows.sort((a,b)=>{const x=key(a),y=key(b);return (x<y?-1:x>y?1:0)*(down?-1:1)});rows.forEach(r=>body.append(r))}));
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_probability_is_a_softmax() {
        assert!((probability(&[0.0, 3f32.ln(), 0.0]) - 0.6).abs() < 1e-6);
    }
}
