//! `tour`: a model measured at many operating points, on the embedded images or on one's own inputs.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde_json::json;
use switchformer_data::FashionMnist;
use switchformer_infer::Session;
use switchformer_lab::tour::page::{self, NOISY, STAR, Setting, kib, percent, spread, told};
use switchformer_lab::tour::{Contestant, Samples, Tour, contestants, tour};
use switchformer_nn::machine;
use switchformer_nn::store::{apart, write_atomic};
use switchformer_switch::NamedPoint;

use super::table::aligned;
use super::{images, lines, open, print};
use crate::fail::Fail;
use crate::say;

/// `tour`.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  switchformer tour
  switchformer tour --images 500 --rounds 5 --out quick.html
  switchformer tour --model models/all-MiniLM-L6-v2 --nested --text sentences.txt   # needs both

The embedded model is measured on embedded test images of Fashion-MNIST, by accuracy. A model of your own is measured by
how well its answers at each point agree with those at full.")]
pub(crate) struct Args {
    /// `default` or a model folder
    #[arg(long, default_value = "default")]
    model: String,
    /// Measure on these texts: a file with one text per line; `-` reads standard input
    #[arg(long, value_name = "FILE", conflicts_with_all = ["image", "images", "data"])]
    text: Option<PathBuf>,
    /// Measure on these images: files or folders of images
    #[arg(long, value_name = "FILE|DIR", num_args = 1.., conflicts_with_all = ["images", "data"])]
    image: Vec<PathBuf>,
    /// Measure the points of 8-bit weights too: the model is opened a second time and quantised while it is opened
    #[arg(long)]
    nested: bool,
    /// Measure this point too, JSON such as '{"exit": 3}'; may be given several times
    #[arg(long, value_name = "JSON")]
    point: Vec<String>,
    /// Number of Fashion-MNIST test images; 4,000 are embedded, more need the data set [default: 2000]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(32..=10_000))]
    images: Option<u32>,
    /// Folder of Fashion-MNIST, for more than the embedded images
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Timed rounds; in each every point runs once, in turn
    #[arg(long, value_name = "N", default_value_t = 15, value_parser = clap::value_parser!(u32).range(3..=1000))]
    rounds: u32,
    /// Where to write the report
    #[arg(long, value_name = "FILE", default_value = "report.html")]
    out: PathBuf,
}

/// Measures, prints the table, writes the report.
pub(crate) fn run(a: &Args, json: bool) -> Result<(), Fail> {
    let given =
        a.data.iter().chain(&a.text).chain(&a.image).map(PathBuf::as_path).filter(|p| p.is_file() || p.is_dir());
    apart(&a.out, &given.chain([Path::new(&a.model)]).collect::<Vec<_>>())?;
    writable(&a.out)?;
    let session = open(&a.model, false)?;
    let quantised = a.nested.then(|| open(&a.model, true)).transpose()?;
    let (samples, data) = a.samples(&session)?;
    let opened = &session.opened;
    let mut all = contestants(&session);
    // What the plain model can do is measured there: `full` is the checkpoint as it is.
    for more in quantised.iter().flat_map(contestants) {
        if all.iter().all(|c| c.named.name != more.named.name) {
            all.push(more);
        }
    }
    for text in &a.point {
        let of = quantised
            .as_ref()
            .filter(|q| session.opened.point(Some(text)).is_err() && q.opened.point(Some(text)).is_ok());
        let session = of.unwrap_or(&session);
        let point = session.opened.point(Some(text))?;
        if all.iter().all(|c| c.named.point != point) {
            let named = NamedPoint { name: point.to_string(), point, about: "given by --point".into() };
            all.push(Contestant { session, named });
        }
    }
    let made = tour(&all, &samples, a.rounds as usize, say::progress)?;
    let setting = Setting {
        model: a.model.clone(),
        family: format!("{}, {} blocks", opened.entry.name, opened.switches.host().n_blocks),
        params: opened.n_params,
        file_bytes: opened.file_bytes,
        cpu: super::doctor::cpu(),
        isa: machine::isa().to_string(),
        threads: machine::threads(),
        data,
        rounds: a.rounds as usize,
        date: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
        version: super::doctor::version(),
        command: written(std::env::args().skip(1)),
        things: match samples {
            Samples::Texts(_) => "text",
            _ => "image",
        },
        use_it: made.recommended.as_ref().map(|name| {
            let found = all.iter().find(|c| c.named.name == *name);
            a.use_it(&samples, name, found.is_some_and(|c| !std::ptr::eq(c.session, &session)))
        }),
    };
    write_atomic(&a.out, page::page(&made, &setting)?.as_bytes())?;
    if json {
        let advice = json!({"headline": page::headline(&made, &setting), "command": setting.use_it,
            "warning": page::warning(&made)});
        return say::answer(&json!({"setting": setting, "report": a.out, "tour": made, "advice": advice}));
    }
    print(&text(&made, &setting))?;
    print(&format!("Report: {}\n", a.out.display()))
}

impl Args {
    /// What to measure on, and its name.
    fn samples(&self, session: &Session) -> Result<(Samples, String), Fail> {
        let reads_images = session.opened.model.spec().image_size().is_ok();
        if let Some(file) = &self.text {
            if reads_images {
                return Err(Fail::Usage("this model reads images: give them by --image".into()));
            }
            session.tokenizer().map_err(|_| Fail::Usage("--text needs a model folder with a tokenizer".into()))?;
            let texts = lines(file)?;
            let data = format!("{} texts of {}", texts.len(), file.display());
            return Ok((Samples::Texts(texts), data));
        }
        if !self.image.is_empty() {
            if !reads_images {
                return Err(Fail::Usage("this model reads text: give a file with one text per line by --text".into()));
            }
            let all = images(&self.image)?;
            let data = format!("{} images", all.len());
            return Ok((Samples::Images(all), data));
        }
        let opened = &session.opened;
        if opened.model.spec().image_size().is_err() {
            return Err(Fail::Usage("this model reads text: give a file with one text per line by --text FILE".into()));
        }
        let classes = opened.switches.host().classifier.map(|(_, classes)| classes);
        if classes != Some(switchformer_data::fashion::LABELS.len()) {
            return Err(Fail::Usage(
                "this model does not tell the ten classes of Fashion-MNIST: give images by --image DIR".into(),
            ));
        }
        let (n, embedded) = (self.images.unwrap_or(2000) as usize, switchformer_data::embedded_fashion()?);
        let set = match n <= embedded.len() && self.data.is_none() {
            true => embedded.head(n),
            false => FashionMnist::open(self.data.as_deref())?.test()?.head(n),
        };
        let data = format!("Fashion-MNIST, the first {} test images", set.len());
        Ok((Samples::labelled(session, &set)?, data))
    }

    /// The command that runs one input at a point.
    fn use_it(&self, samples: &Samples, point: &str, nested: bool) -> String {
        let (flag, what) = match samples {
            Samples::Labelled(_) => ("--image", "example:7".to_string()),
            Samples::Images(all) => ("--image", all[0].name().to_string()),
            Samples::Texts(_) => ("--text", "a sentence of yours".to_string()),
        };
        let nested = nested.then_some("--nested");
        let words = ["run", &self.model].into_iter().chain(nested).chain([flag, &what, "--point", point]);
        written(words.map(String::from))
    }
}

/// Errors where a report could not be written, before anything is measured.
fn writable(out: &Path) -> Result<(), Fail> {
    let dir = out.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match () {
        () if out.is_dir() => Err(Fail::Input(format!("--out {} is a folder; name a file", out.display()))),
        () if !dir.is_dir() => {
            Err(Fail::Input(format!("--out {}: there is no folder {}", out.display(), dir.display())))
        }
        () => Ok(()),
    }
}

/// A command as one would type it.
fn written(words: impl Iterator<Item = String>) -> String {
    let plain = |c: char| c.is_alphanumeric() || "-_./:=,+@%".contains(c);
    let word =
        |w: String| if !w.is_empty() && w.chars().all(plain) { w } else { format!("'{}'", w.replace('\'', r"'\''")) };
    std::iter::once("switchformer".to_string()).chain(words.map(word)).collect::<Vec<_>>().join(" ")
}

fn text(made: &Tour, s: &Setting) -> String {
    let rows: Vec<Vec<String>> = made
        .points
        .iter()
        .map(|p| {
            vec![
                if p.front { STAR } else { " " }.to_string(),
                p.name.clone(),
                told(made.quality, p.verdict).to_string(),
                percent(made.quality, p.quality),
                format!("{}{}", spread(&p.speedup_batch32), if p.noisy { NOISY } else { " " }),
                format!("{:.3}", p.ms_batch32.median),
                format!("{:.3}", p.ms_batch1.median),
                format!("{:.2}", p.flops / 1e6),
                format!("{:.2}", p.mean_depth),
                format!("{}", kib(p.weight_bytes)),
            ]
        })
        .collect();
    let many = format!("ms b{}", made.batch);
    let header = [
        "",
        "point",
        "against full",
        made.quality.title(),
        "speed-up ",
        many.as_str(),
        "ms b1",
        "MFLOP",
        "blocks",
        "weights KiB",
    ];
    let mut out = format!(
        "{}: {}, {} parameters\n{}; {}, {} kernels, {} threads; medians of {} rounds\n\n{}\n",
        s.model,
        s.family,
        s.params,
        s.data,
        s.cpu,
        s.isa,
        s.threads,
        s.rounds,
        aligned(&header, &rows, 3)
    );
    out.push_str(&format!(
        "{STAR} Pareto-optimal by paired tests. speed-up: over full, in batches, with quartiles. ms: per sample, in batches of {0} (b{0}) and \
         alone (b1).\n\n",
        made.batch
    ));
    if !made.left_out.is_empty() {
        out.push_str(&format!("Left out, because some tokens have no answer there: {}.\n", made.left_out.join(", ")));
    }
    if let Some(warning) = page::warning(made) {
        out.push_str(&format!("{NOISY} {warning}\n\n"));
    }
    out.push_str(&format!("{}\n", page::headline(made, s)));
    if let Some(command) = &s.use_it {
        out.push_str(&format!("Use it: {command}\n"));
    }
    out
}
