//! `tour`: the embedded model, measured at many operating points on real images.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};

use serde_json::json;
use switchformer_data::FashionMnist;
use switchformer_lab::measure::{Measured, mark_pareto, measure};
use switchformer_lab::report::{STAR, Setting, page, pictures};
use switchformer_nn::{
    Point, machine,
    store::{apart, write_atomic},
};

use super::table::aligned;
use super::{open, print, print_json};
use crate::fail::Fail;

/// `tour`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// `default`, or the folder of another Fashion-MNIST checkpoint
    #[arg(long, default_value = "default")]
    model: String,
    /// Test images to measure accuracy on; 4,000 are embedded, more need the data set
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u32).range(32..=10_000))]
    images: u32,
    /// Folder of the data set, for more than the embedded images
    #[arg(long)]
    data: Option<PathBuf>,
    /// Timed repetitions per figure
    #[arg(long, default_value_t = 9, value_parser = clap::value_parser!(u32).range(1..=1000))]
    reps: u32,
    /// Where to write the report
    #[arg(long, default_value = "report.html")]
    out: PathBuf,
}

/// Measures, prints the table, writes the report.
pub(crate) fn run(a: &Args, json: bool) -> Result<(), Fail> {
    let read: Vec<&Path> = a.data.as_deref().into_iter().chain([Path::new(&a.model)]).collect();
    apart(&a.out, &read)?;
    let opened = open(&a.model, false)?.opened;
    let images = a.images as usize;
    let embedded = switchformer_data::embedded_fashion()?;
    let set = if images <= embedded.len() {
        embedded.head(images)
    } else {
        FashionMnist::open(a.data.as_deref())?.test()?.head(images)
    };
    let named = opened.switches.points();
    let mut points = Vec::with_capacity(named.len());
    for (i, (name, point)) in named.iter().enumerate() {
        progress(i, named.len(), name);
        points.push(measure(&opened, name, point, &set, a.reps as usize)?);
    }
    progress(named.len(), named.len(), "");
    mark_pareto(&mut points);
    let setting = Setting {
        model: format!("{} {} ({} blocks)", a.model, opened.entry.name, opened.switches.host().n_blocks),
        cpu: super::doctor::cpu(),
        isa: format!("{:?}", machine::isa()),
        threads: machine::threads(),
        data: format!("Fashion-MNIST, first {} test images", set.len()),
        reps: a.reps as usize,
    };
    let shown = shown(&named);
    let grid = pictures(&opened, &shown, &set, 12)?;
    let html = page(&opened, &setting, &points, &grid, &shown.to_string())?;
    write_atomic(&a.out, html.as_bytes())?;
    if json {
        return print_json(&json!({"setting": setting, "report": a.out, "points": points}));
    }
    print(&format!("{}\n{}", head(&setting, opened.n_params), text(&points)))?;
    print(&format!("\n{STAR} no other point is both as accurate and as fast. Report: {}\n", a.out.display()))
}

/// The point whose kept tokens the report shows: the one that sets most switches.
fn shown(named: &[(String, Point)]) -> Point {
    let with = |p: &&(String, Point)| p.1.axes().any(|a| a == "tokens");
    let best = named.iter().filter(with).max_by_key(|(_, p)| p.axes().count());
    best.map(|(_, p)| p.clone()).unwrap_or_default()
}

fn head(s: &Setting, params: u64) -> String {
    format!(
        "{}, {params} parameters\n{}\n{}, {} kernels, {} threads, medians of {} runs\n",
        s.model, s.data, s.cpu, s.isa, s.threads, s.reps
    )
}

fn text(points: &[Measured]) -> String {
    let rows: Vec<Vec<String>> = points
        .iter()
        .map(|p| {
            vec![
                if p.pareto { STAR } else { " " }.to_string(),
                p.name.clone(),
                format!("{:.2}", 100.0 * p.accuracy),
                format!("{:.1}-{:.1}", 100.0 * p.accuracy_ci[0], 100.0 * p.accuracy_ci[1]),
                format!("{:.3}", p.ms_batch1),
                format!("{:.3}", p.ms_batch32),
                format!("{:.0}", p.images_per_s),
                format!("{:.2}", p.flops / 1e6),
                format!("{:.2}", p.mean_depth),
                format!("{}", p.weight_bytes / 1024),
                format!("{}", p.resident_bytes / 1024),
                format!("{}", p.peak_memory >> 20),
            ]
        })
        .collect();
    let header = [
        "",
        "point",
        "acc %",
        "95 % CI",
        "ms b1",
        "ms/img b32",
        "img/s",
        "MFLOP/img",
        "depth",
        "need KiB",
        "held KiB",
        "peak MiB",
    ];
    aligned(&header, &rows, 2)
}

/// A line on standard error: rewritten on a terminal, one per point elsewhere.
fn progress(done: usize, of: usize, name: &str) {
    let mut err = std::io::stderr();
    let line = format!("[{done}/{of}] {name}");
    // Progress is a courtesy: a closed standard error is no reason to stop.
    let _ = if err.is_terminal() {
        write!(err, "\r\x1b[2K{}", if done == of { "" } else { &line }).and_then(|()| err.flush())
    } else {
        writeln!(err, "{line}")
    };
}
