//! Debian's translated package descriptions: free, aligned text in about twenty languages.
//!
//! apt keeps `Translation-XX` files (`Package`, `Description-md5`, `Description-XX`) beside `Packages` (`Description`).
//! The md5 names the *English* description, so it joins a translation to what was translated. Both sides are split into
//! the short description and the paragraphs of the long one (parted by lines ` .`).

use std::collections::HashMap;
use std::path::Path;

use crate::error::{Error, Result, read_file};
use crate::pairs::{Aligned, Pairing, words};
use crate::plain::{Lines, text_from};

/// Most descriptions of a file.
const MAX_STANZAS: usize = 1_000_000;
/// Languages have short names (`pt_BR`).
const MAX_LANGUAGE: usize = 16;
/// Of 1,000 families of packages, so many are for validation, and as many for testing.
const HELD_OUT: u64 = 30;

/// One description.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    /// Name of the package.
    pub package: String,
    /// Digest of the English description, 32 hexadecimal digits.
    pub md5: String,
    /// The short description.
    pub short: String,
    /// The paragraphs of the long description, each on one line.
    pub paragraphs: Vec<String>,
}

/// The descriptions of one file, in one language.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Descriptions {
    /// The language's name, such as `de` or `pt_BR`.
    pub language: String,
    /// In the order of the file.
    pub entries: Vec<Description>,
}

/// What a pair may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Split {
    /// Training.
    Train,
    /// Choosing settings.
    Valid,
    /// The last measurement.
    Test,
}

impl Split {
    /// The split of a package. Packages that differ in digits or in a role (`-dev`, `-doc`) only are one family and
    /// share a split, as their descriptions are much alike: 94 % of the families train, 3 % each validate and test.
    pub fn of(package: &str) -> Split {
        match switchformer_format::Rng::of(&[7, fnv(&family(package))]).next_u64() % 1000 {
            n if n < HELD_OUT => Split::Valid,
            n if n < 2 * HELD_OUT => Split::Test,
            _ => Split::Train,
        }
    }
}

/// A package's name without `lib`, digits and roles: what its versions and parts have in common.
fn family(package: &str) -> String {
    const ROLES: [&str; 20] = [
        "bin", "client", "common", "core", "data", "dbg", "dbgsym", "dev", "doc", "docs", "examples", "extra", "gtk",
        "perl", "qt", "server", "source", "tests", "tools", "utils",
    ];
    let unversioned = package.strip_prefix("lib").unwrap_or(package).replace(|c: char| !c.is_ascii_alphabetic(), "-");
    let mut parts: Vec<&str> = unversioned.split('-').filter(|p| !p.is_empty()).collect();
    while parts.len() > 1 && parts.last().is_some_and(|p| ROLES.contains(p)) {
        parts.pop();
    }
    if parts.is_empty() { package.to_owned() } else { parts.join("-") }
}

/// FNV-1a.
fn fnv(text: &str) -> u64 {
    text.bytes().fold(0xCBF2_9CE4_8422_2325, |hash, b| (hash ^ u64::from(b)).wrapping_mul(0x100_0000_01B3))
}

impl Descriptions {
    /// Reads a `Packages` or `Translation-XX` file, plain or gzip'd; other packings are refused with the command that unpacks them; fails with `file.*`, `text.*` or `debian.stanza`.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        Self::from_bytes(read_file(path, crate::plain::MAX_FILE_BYTES)?, path)
    }

    /// Reads such a file in memory; `label` stands in for the path in errors; fails as [`open`](Self::open) does.
    pub fn from_bytes(bytes: Vec<u8>, label: &Path) -> Result<Self> {
        let text = text_from(bytes, label)?;
        let mut out = Descriptions { language: String::new(), entries: Vec::new() };
        let mut stanza = Stanza::default();
        let refuse = |(line, kind)| {
            let hint = "give apt's own Packages or Translation-XX file";
            Error::file(label, "debian.stanza", format!("at line {line}: {kind}"), hint)
        };
        for line in Lines::new(&text, label) {
            let (number, line) = line?;
            if line.trim_matches([' ', '\t']).is_empty() {
                out.take(std::mem::take(&mut stanza)).map_err(refuse)?;
            } else {
                stanza.line(number, line).map_err(|kind| refuse((number, kind)))?;
            }
        }
        out.take(stanza).map_err(refuse)?;
        if out.entries.is_empty() {
            return Err(Error::no_text(label, "no package description"));
        }
        Ok(out)
    }

    /// Adds a finished stanza; an error is a line and what is wrong there.
    fn take(&mut self, stanza: Stanza) -> std::result::Result<(), (usize, &'static str)> {
        let Some(first) = stanza.first else { return Ok(()) };
        let need = |field: Option<String>, kind| field.ok_or((first, kind));
        let package = need(stanza.package, "this stanza has no Package field")?;
        let md5 = need(stanza.md5, "this stanza has no Description-md5 field")?;
        let (language, lines) = stanza.description.ok_or((first, "this stanza has no Description field"))?;
        if package.is_empty() {
            return Err((first, "the Package field is empty"));
        }
        if md5.len() != 32 || !md5.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err((first, "Description-md5 is not 32 hexadecimal digits"));
        }
        if self.entries.len() == MAX_STANZAS {
            return Err((first, "there are more than 1,000,000 stanzas"));
        }
        if self.language.is_empty() {
            self.language = language;
        } else if self.language != language {
            return Err((first, "the description is in another language than those before"));
        }
        let mut lines = lines.into_iter();
        let short = lines.next().unwrap_or_default();
        let rest: Vec<String> = lines.collect();
        let paragraphs = rest
            .split(|line| line == ".")
            .map(|lines| words(&lines.join(" ")))
            .filter(|paragraph| !paragraph.is_empty())
            .collect();
        self.entries.push(Description { package, md5: md5.to_ascii_lowercase(), short: words(&short), paragraphs });
        Ok(())
    }

    /// Aligns a translation with the English original: short descriptions, and paragraphs where both have equally many.
    pub fn align(&self, english: &Descriptions) -> Aligned {
        let mut originals: HashMap<&str, &Description> = HashMap::new();
        for entry in &english.entries {
            originals.entry(&entry.md5).or_insert(entry);
        }
        let mut out = Pairing::default();
        for entry in &self.entries {
            let Some(original) = originals.get(entry.md5.as_str()) else {
                out.aligned.unmatched += 1;
                continue;
            };
            let even = original.paragraphs.len() == entry.paragraphs.len();
            out.aligned.uneven += usize::from(!even);
            let paragraphs = original.paragraphs.iter().zip(&entry.paragraphs).take(if even { usize::MAX } else { 0 });
            let split = Split::of(&entry.package);
            for (english, other) in std::iter::once((&original.short, &entry.short)).chain(paragraphs) {
                out.add(english, other, split);
            }
        }
        out.aligned
    }
}

/// The fields of a stanza that matter here.
#[derive(Default)]
struct Stanza {
    /// Its first line.
    first: Option<usize>,
    package: Option<String>,
    md5: Option<String>,
    /// Language and lines.
    description: Option<(String, Vec<String>)>,
    /// Whether the description goes on in the next line.
    inside: bool,
}

impl Stanza {
    fn line(&mut self, number: usize, line: &str) -> std::result::Result<(), &'static str> {
        if line.starts_with([' ', '\t']) {
            if self.first.is_none() {
                return Err("a line begins with a space but continues no field");
            }
            if let (true, Some((_, lines))) = (self.inside, &mut self.description) {
                // Translators have written a no-break space where a dot parts paragraphs.
                let line = line.trim();
                lines.push(if line.is_empty() { "." } else { line }.to_owned());
            }
            return Ok(());
        }
        self.first.get_or_insert(number);
        let named = |name: &str| !name.is_empty() && name.bytes().all(|b| b.is_ascii_graphic());
        let Some((name, value)) = line.split_once(':').filter(|(name, _)| named(name)) else {
            return Err("the line is neither a field (`Name: value`) nor the continuation of one");
        };
        let value = value.trim();
        self.inside = false;
        let name = name.to_ascii_lowercase();
        let (slot, twice) = match name.as_str() {
            "package" => (&mut self.package, "the Package field occurs twice in a stanza"),
            "description-md5" => (&mut self.md5, "the Description-md5 field occurs twice in a stanza"),
            _ => {
                let language = match name.strip_prefix("description") {
                    Some("") => "en",
                    Some(rest) if rest.starts_with('-') => &line[name.len() - rest.len() + 1..name.len()],
                    _ => return Ok(()),
                };
                if self.description.is_some() {
                    return Err("there are two descriptions in a stanza");
                }
                if language.is_empty() || language.len() > MAX_LANGUAGE {
                    return Err("the Description field names no language");
                }
                self.description = Some((language.to_owned(), vec![value.to_owned()]));
                self.inside = true;
                return Ok(());
            }
        };
        if slot.replace(value.to_owned()).is_some() { Err(twice) } else { Ok(()) }
    }
}
