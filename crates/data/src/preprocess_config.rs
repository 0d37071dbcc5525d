//! Reading `preprocessor_config.json`, refusing by name what is not supported.

use std::path::Path;

use serde_json::{Map, Value};
use switchformer_format::json;

use crate::error::{Error, Result, read_json};
use crate::image_keys::{JOINT, PROCESSOR, TIMM, listed, notes};
use crate::processors::{Backend, Family, IMAGENET, Size};
use crate::resize::Filter;

const MAX_CONFIG_BYTES: u64 = 1 << 20;
const MAX_CONFIG_SIDE: u64 = 4096;

/// Which pixel a centred crop begins at when the border is an odd number of pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Middle {
    /// The one before; missing borders are larger above and at the left. As transformers does with Pillow.
    Down,
    /// The one before; missing borders are larger below and at the right. As transformers does with torchvision.
    Low,
    /// The even one, as in torchvision, and so in timm.
    Even,
}

/// The steps of an image processor in the order they run; read with [`Preprocessor::load`].
#[derive(Debug, Clone, PartialEq)]
pub struct Preprocessor {
    /// Resize first, if set.
    pub resize: Option<(Size, Filter)>,
    /// Then crop the middle (height, width), if set; missing borders become zero.
    pub crop: Option<(usize, usize)>,
    /// Where the middle is when it falls between two pixels.
    pub middle: Middle,
    /// Then multiply each byte by this, if set.
    pub rescale: Option<f64>,
    /// Then subtract the mean and divide by the standard deviation of each channel, if set.
    pub normalize: Option<(Vec<f32>, Vec<f32>)>,
    /// Whose rounding the steps follow.
    pub backend: Backend,
    /// What the file says that changes nothing here, in words: one sentence each.
    pub notes: Vec<String>,
}

/// Share of a side that `ConvNextImageProcessor` crops, and from which size on it stretches instead.
const CROP_PCT: f64 = 224.0 / 256.0;
const STRETCHED: usize = 384;

impl Preprocessor {
    /// The class's own defaults for three channels.
    pub fn default_for(family: Family) -> Self {
        let class = family.class();
        let (size, crop) = family.steps(class.size, CROP_PCT);
        let crop = crop.or(class.crop.filter(|(_, on)| *on).map(|(side, _)| side));
        Self {
            resize: Some((size, class.filter)),
            crop: crop.map(|side| (side, side)),
            middle: Middle::Down,
            rescale: Some(1.0 / 255.0),
            normalize: Some((class.mean.to_vec(), class.std.to_vec())),
            backend: Backend::Pillow,
            notes: Vec::new(),
        }
    }

    /// The class's defaults at the size of a model: for folders that do not say how images are prepared. A class that crops
    /// keeps its border.
    pub fn sized_for(family: Family, (height, width): (usize, usize)) -> Self {
        let plain = Self::default_for(family);
        let class = family.class();
        let wider = |side: usize| match (class.size, class.crop) {
            (Size::Exact { height, .. }, Some((crop, true))) => side * height / crop,
            _ => side,
        };
        let (size, crop) = match (class.size, height == width) {
            (Size::ShortestEdge(_), true) => match family.steps(Size::ShortestEdge(height), CROP_PCT) {
                (size, None) if class.crop.is_some() => (size, Some((height, width))),
                (size, crop) => (size, crop.map(|side| (side, side))),
            },
            _ => {
                let size = Size::Exact { height: wider(height), width: wider(width) };
                (size, plain.crop.map(|_| (height, width)))
            }
        };
        Self { resize: plain.resize.map(|(_, filter)| (size, filter)), crop, ..plain }
    }

    /// Reads a `preprocessor_config.json`; `fallback` is the family when the file names none; fails with `file.*`, `json.*` or `preprocessor.unsupported`.
    pub fn load(path: impl AsRef<Path>, fallback: Option<Family>) -> Result<Self> {
        let path = path.as_ref();
        from_value(&read_json(path, MAX_CONFIG_BYTES)?, path, PROCESSOR, fallback)
    }

    /// Reads the same from bytes; `label` stands in for the path in errors.
    pub fn from_bytes(bytes: &[u8], label: &Path, fallback: Option<Family>) -> Result<Self> {
        from_value(&json::parse(bytes, label)?, label, PROCESSOR, fallback)
    }

    /// Reads the `image_processor` of a `processor_config.json`; `None` where the file has none.
    pub fn from_joint(bytes: &[u8], label: &Path, fallback: Option<Family>) -> Result<Option<Self>> {
        let doc = json::parse(bytes, label)?;
        let (Some(map), Some(value)) = (doc.as_object(), doc.get("image_processor")) else { return Ok(None) };
        let mut made = from_value(value, label, "processor_config.json: image_processor", fallback)?;
        made.notes.extend(notes(map, JOINT, JOINT)?);
        Ok(Some(made))
    }

    /// The steps of timm's evaluation, from the `pretrained_cfg` of its `config.json` (`{"architecture": ..}`), or from the file
    /// itself where it is of the older kind without one; `None` where the file is not timm's; fails with `json.*`,
    /// `config.unsupported` or `preprocessor.unsupported`.
    pub fn from_timm(bytes: &[u8], label: &Path) -> Result<Option<Self>> {
        let doc = json::parse(bytes, label)?;
        let Some(whole) = doc.as_object().filter(|doc| doc.contains_key("architecture")) else { return Ok(None) };
        match whole.get("pretrained_cfg") {
            Some(Value::Object(map)) => {
                timm(&Fields { map, path: label, table: TIMM }, notes(map, TIMM, TIMM)?).map(Some)
            }
            None if !whole.contains_key("model_type") && OF_IMAGES.iter().any(|key| whole.contains_key(*key)) => {
                timm(&Fields { map: whole, path: label, table: TIMM }, Vec::new()).map(Some)
            }
            _ => Ok(None),
        }
    }
}

/// Keys by which a file of timm without `pretrained_cfg` says how images are prepared.
const OF_IMAGES: [&str; 6] = ["input_size", "interpolation", "crop_pct", "crop_mode", "mean", "std"];

/// One configuration with its path, so that each refusal can name both.
struct Fields<'a> {
    map: &'a Map<String, Value>,
    path: &'a Path,
    /// The table that lists its keys.
    table: &'static str,
}

impl<'a> Fields<'a> {
    /// A field; JSON null counts as absent, as in the processor classes.
    fn get(&self, name: &str) -> Option<&'a Value> {
        debug_assert!(listed(self.table, name), "{name} is read and not in the table of {}", self.table);
        self.map.get(name).filter(|v| !v.is_null())
    }

    fn refuse<T>(&self, field: &str, value: &Value, hint: &str) -> Result<T> {
        let mut text: String = value.to_string().chars().take(60).collect();
        if text.len() < value.to_string().len() {
            text.push_str("...");
        }
        let field: String = field.chars().take(60).collect();
        let what = format!("has \"{field}\" as {text}, which is not supported");
        Err(Error::file(self.path, "preprocessor.unsupported", what, hint))
    }

    fn flag(&self, name: &str, default: bool) -> Result<bool> {
        match self.get(name) {
            // The reference asks whether a step's value is true, and null is not.
            None if name.starts_with("do_") && self.map.contains_key(name) => Ok(false),
            None => Ok(default),
            Some(Value::Bool(b)) => Ok(*b),
            Some(v) => self.refuse(name, v, "give true or false"),
        }
    }

    /// One number for all channels or a list of one per channel.
    fn numbers(&self, name: &str, nonzero: bool) -> Result<Option<Vec<f32>>> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let hint =
            if nonzero { "give one or three finite numbers other than 0" } else { "give one or three finite numbers" };
        let items = match value {
            // A bare number holds for every channel.
            Value::Number(_) => vec![value.clone(); 3],
            Value::Array(a) if matches!(a.len(), 1 | 3) => a.clone(),
            _ => return self.refuse(name, value, hint),
        };
        let mut out = Vec::with_capacity(3);
        for item in &items {
            match item.as_f64().map(|v| v as f32) {
                Some(v) if v.is_finite() && !(nonzero && v == 0.0) => out.push(v),
                _ => return self.refuse(name, value, hint),
            }
        }
        Ok(Some(out))
    }

    fn side(&self, name: &str, value: &Value) -> Result<usize> {
        match value.as_u64() {
            Some(v) if (1..=MAX_CONFIG_SIDE).contains(&v) => Ok(v as usize),
            _ => self.refuse(name, value, "give a whole number from 1 to 4096"),
        }
    }

    /// A whole number, `[height, width]`, `{"height", "width"}` or `{"shortest_edge"}`.
    fn size(&self, name: &str, square: bool) -> Result<Option<Size>> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let hint = "give a number, {\"height\", \"width\"} or {\"shortest_edge\"}";
        if let Some([height, width]) = value.as_array().map(Vec::as_slice) {
            return Ok(Some(Size::Exact { height: self.side(name, height)?, width: self.side(name, width)? }));
        }
        let Value::Object(map) = value else {
            if !value.is_number() {
                return self.refuse(name, value, hint);
            }
            let side = self.side(name, value)?;
            return Ok(Some(if square { Size::square(side) } else { Size::ShortestEdge(side) }));
        };
        let set: Vec<(&str, &Value)> = map.iter().filter(|(_, v)| !v.is_null()).map(|(k, v)| (k.as_str(), v)).collect();
        match set.as_slice() {
            [("shortest_edge", edge)] => Ok(Some(Size::ShortestEdge(self.side(name, edge)?))),
            // Keys come in any order; the other one must be the width.
            [_, _] => match (map.get("height"), map.get("width")) {
                (Some(h), Some(w)) => Ok(Some(Size::Exact { height: self.side(name, h)?, width: self.side(name, w)? })),
                _ => self.refuse(name, value, hint),
            },
            _ => self.refuse(name, value, hint),
        }
    }
}

/// Reads a processor; `at` says where its object lies.
fn from_value(value: &Value, path: &Path, at: &str, fallback: Option<Family>) -> Result<Preprocessor> {
    let Value::Object(map) = value else {
        return Err(Error::file(path, "preprocessor.unsupported", "holds no JSON object", "give one"));
    };
    let fields = Fields { map, path, table: PROCESSOR };
    let notes = notes(map, PROCESSOR, at)?;
    let (family, backend) = family(&fields, fallback)?;
    let class = family.class();

    let square = fields.flag("default_to_square", class.square)?;
    let (mut resize, mut crop) = (None, None);
    if fields.flag("do_resize", true)? {
        let mut size = fields.size("size", square)?.unwrap_or(class.size);
        if family == Family::Clip && fields.flag("use_square_size", false)? {
            size = Size::square(224);
        }
        if family == Family::ConvNext && !matches!(size, Size::ShortestEdge(_)) {
            return fields.refuse("size", &map["size"], "this class takes {\"shortest_edge\"}");
        }
        let share = match fields.get("crop_pct").filter(|_| family == Family::ConvNext) {
            None => CROP_PCT,
            Some(v) => match v.as_f64() {
                Some(share) if share > 0.01 && share <= 1.0 => share,
                _ => return fields.refuse("crop_pct", v, "give a number above 0.01 and at most 1"),
            },
        };
        let filter = match fields.get("resample") {
            None => class.filter,
            Some(v) => match v.as_u64().and_then(Filter::from_pillow) {
                Some(Filter::Box | Filter::Hamming) if backend == Backend::Torchvision => {
                    return fields.refuse(
                        "resample",
                        v,
                        "torchvision, which classes called Fast use, has no such filter",
                    );
                }
                Some(f) => f,
                None => return fields.refuse("resample", v, "give a Pillow filter code from 0 to 5"),
            },
        };
        let (size, side) = family.steps(size, share);
        resize = Some((size, filter));
        crop = side.map(|side| (side, side));
    }

    if fields.flag("do_center_crop", class.crop.is_some_and(|(_, on)| on))? && family != Family::Segformer {
        if crop.is_some() {
            return fields.refuse("do_center_crop", &Value::Bool(true), "this class crops already, by crop_pct");
        }
        crop = match fields.size("crop_size", true)? {
            Some(Size::Exact { height, width }) => Some((height, width)),
            Some(Size::ShortestEdge(_)) => {
                return fields.refuse("crop_size", &map["crop_size"], "give a number or {\"height\", \"width\"}");
            }
            None => match class.crop {
                Some((side, _)) => Some((side, side)),
                None => return fields.refuse("crop_size", &Value::Null, "do_center_crop needs a crop_size"),
            },
        };
    }

    let rescale = if fields.flag("do_rescale", true)? {
        match fields.get("rescale_factor") {
            None => Some(1.0 / 255.0),
            Some(v) => match v.as_f64() {
                Some(f) if f.is_finite() && f != 0.0 => Some(f),
                _ => return fields.refuse("rescale_factor", v, "give a finite number other than 0"),
            },
        }
    } else {
        None
    };

    let normalize = if fields.flag("do_normalize", true)? {
        let mean = fields.numbers("image_mean", false)?.unwrap_or_else(|| class.mean.to_vec());
        let std = fields.numbers("image_std", true)?.unwrap_or_else(|| class.std.to_vec());
        Some((mean, std))
    } else {
        None
    };
    let middle = if backend == Backend::Torchvision { Middle::Low } else { Middle::Down };
    Ok(Preprocessor { resize, crop, middle, rescale, normalize, backend, notes })
}

impl Family {
    /// What is resized to and then cropped for a stated size.
    fn steps(self, size: Size, share: f64) -> (Size, Option<usize>) {
        match size {
            Size::ShortestEdge(edge) if self == Family::ConvNext => match edge < STRETCHED {
                true => (Size::ShortestEdge((edge as f64 / share) as usize), Some(edge)),
                false => (Size::square(edge), None),
            },
            size => (size, None),
        }
    }
}

/// timm resizes the shorter side to the input's over `crop_pct`, rounded down, and crops the middle.
fn timm(fields: &Fields<'_>, notes: Vec<String>) -> Result<Preprocessor> {
    let hint = "give [channels, height, width], with equal sides";
    let square = |v: &Value| match v.as_array().map(Vec::as_slice) {
        Some([_, h, w]) if h == w => Some(h.clone()),
        _ => None,
    };
    let side = match fields.get("input_size") {
        None => 224,
        Some(v) => match square(v) {
            Some(side) => fields.side("input_size", &side)?,
            None => return fields.refuse("input_size", v, hint),
        },
    };
    let share = match fields.get("crop_pct") {
        None => 0.875,
        Some(v) => match v.as_f64() {
            Some(share) if share > 0.01 && share <= 1.0 => share,
            _ => return fields.refuse("crop_pct", v, "give a number above 0.01 and at most 1"),
        },
    };
    let resized = (side as f64 / share) as usize;
    let size = match fields.get("crop_mode").map(|v| (v, v.as_str())) {
        None | Some((_, Some("center"))) => Size::ShortestEdge(resized),
        Some((_, Some("squash"))) => Size::Exact { height: resized, width: resized },
        Some((v, _)) => return fields.refuse("crop_mode", v, "\"center\" and \"squash\" are supported"),
    };
    let filter = match fields.get("interpolation").map(|v| (v, v.as_str())) {
        None => Filter::Bicubic,
        Some((v, name)) => match name.and_then(Filter::from_name) {
            Some(filter) => filter,
            None => {
                return fields.refuse("interpolation", v, "give bilinear, bicubic, nearest, lanczos, box or hamming");
            }
        },
    };
    let mean = fields.numbers("mean", false)?.unwrap_or_else(|| IMAGENET.0.to_vec());
    let std = fields.numbers("std", true)?.unwrap_or_else(|| IMAGENET.1.to_vec());
    Ok(Preprocessor {
        resize: Some((size, filter)),
        crop: Some((side, side)),
        middle: Middle::Even,
        rescale: Some(1.0 / 255.0),
        normalize: Some((mean, std)),
        backend: Backend::Pillow,
        notes,
    })
}

/// The newer field wins, as in transformers.
fn family(fields: &Fields<'_>, fallback: Option<Family>) -> Result<(Family, Backend)> {
    for name in ["image_processor_type", "feature_extractor_type"] {
        let Some(value) = fields.get(name) else { continue };
        return match value.as_str().and_then(Family::named) {
            Some(found) => Ok(found),
            None => fields.refuse(name, value, &Family::known()),
        };
    }
    match fallback {
        Some(family) => Ok((family, Backend::Pillow)),
        None => fields.refuse("image_processor_type", &Value::Null, &Family::known()),
    }
}
