//! Reading `preprocessor_config.json`, refusing by name what is not supported.

use std::path::Path;

use serde_json::{Map, Value};
use switchformer_format::json;

use crate::error::{Error, Result, read_json};
use crate::resize::Filter;

const MAX_CONFIG_BYTES: u64 = 1 << 20;
const MAX_CONFIG_SIDE: u64 = 4096;

/// Which processor class of transformers a configuration belongs to; decides the defaults.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// `ViTImageProcessor`: resize to 224 x 224 bilinear.
    Vit,
    /// `DeiTImageProcessor`: resize to 256 x 256 bicubic, centre crop 224 x 224.
    Deit,
}

/// What a picture is resized to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Size {
    /// Both sides given, the aspect ratio is not kept.
    Exact {
        /// Height in pixels.
        height: usize,
        /// Width in pixels.
        width: usize,
    },
    /// The shorter side given, the aspect ratio is kept.
    ShortestEdge(usize),
}

/// Which pixel a centred crop begins at when the border is an odd number of pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Middle {
    /// The one before, as in transformers.
    Down,
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
}

impl Preprocessor {
    /// The class's own defaults for three channels (mean and standard deviation 0.5).
    pub fn default_for(family: Family) -> Self {
        let half = vec![0.5; 3];
        let (side, filter, crop) = match family {
            Family::Vit => (224, Filter::Bilinear, None),
            Family::Deit => (256, Filter::Bicubic, Some((224, 224))),
        };
        Self {
            resize: Some((Size::Exact { height: side, width: side }, filter)),
            crop,
            middle: Middle::Down,
            rescale: Some(1.0 / 255.0),
            normalize: Some((half.clone(), half)),
        }
    }

    /// Reads a `preprocessor_config.json`; `fallback` is the family when the file names none; fails with `file.*`, `json.*` or `preprocessor.unsupported`.
    pub fn load(path: impl AsRef<Path>, fallback: Option<Family>) -> Result<Self> {
        let path = path.as_ref();
        from_value(&read_json(path, MAX_CONFIG_BYTES)?, path, fallback)
    }

    /// Reads the same from bytes; `label` stands in for the path in errors.
    pub fn from_bytes(bytes: &[u8], label: &Path, fallback: Option<Family>) -> Result<Self> {
        from_value(&json::parse(bytes, label)?, label, fallback)
    }

    /// The steps of timm's evaluation, from the `pretrained_cfg` of its `config.json` (`{"architecture": ..}`); `None` where the
    /// file has none; fails with `json.*` or `preprocessor.unsupported`.
    pub fn from_timm(bytes: &[u8], label: &Path) -> Result<Option<Self>> {
        let doc = json::parse(bytes, label)?;
        match doc.get("pretrained_cfg").filter(|_| doc.get("architecture").is_some()) {
            Some(Value::Object(map)) => timm(&Fields { map, path: label }).map(Some),
            _ => Ok(None),
        }
    }
}

/// One configuration with its path, so that each refusal can name both.
struct Fields<'a> {
    map: &'a Map<String, Value>,
    path: &'a Path,
}

impl<'a> Fields<'a> {
    /// A field; JSON null counts as absent, as in the processor classes.
    fn get(&self, name: &str) -> Option<&'a Value> {
        self.map.get(name).filter(|v| !v.is_null())
    }

    fn refuse<T>(&self, field: &str, value: &Value, hint: &'static str) -> Result<T> {
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

    /// A whole number, `{"height", "width"}` or `{"shortest_edge"}`.
    fn size(&self, name: &str, square: bool) -> Result<Option<Size>> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let hint = "give a number, {\"height\", \"width\"} or {\"shortest_edge\"}";
        let Value::Object(map) = value else {
            if !value.is_number() {
                return self.refuse(name, value, hint);
            }
            let side = self.side(name, value)?;
            return Ok(Some(if square { Size::Exact { height: side, width: side } } else { Size::ShortestEdge(side) }));
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

fn from_value(value: &Value, path: &Path, fallback: Option<Family>) -> Result<Preprocessor> {
    let Value::Object(map) = value else {
        return Err(Error::file(path, "preprocessor.unsupported", "holds no JSON object", "give one"));
    };
    let fields = Fields { map, path };
    let family = family(&fields, fallback)?;
    let defaults = Preprocessor::default_for(family);

    // A step that is not known here and switched on would silently change the result.
    const STEPS: [&str; 5] = ["do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_convert_rgb"];
    for (name, value) in map {
        if name.starts_with("do_")
            && !STEPS.contains(&name.as_str())
            && !matches!(value, Value::Bool(false) | Value::Null)
        {
            return fields.refuse(
                name,
                value,
                "only do_resize, do_center_crop, do_rescale, do_normalize and do_convert_rgb are supported",
            );
        }
    }
    if let Some(v) = fields.get("data_format")
        && !matches!(v.as_str(), Some("channels_first" | "FIRST"))
    {
        return fields.refuse("data_format", v, "only \"channels_first\" is supported");
    }
    // Pictures always get the channels of the model, so this only has to be well formed.
    fields.flag("do_convert_rgb", false)?;

    let square = fields.flag("default_to_square", true)?;
    let (default_size, default_filter) =
        defaults.resize.unwrap_or((Size::Exact { height: 224, width: 224 }, Filter::Bilinear));
    let resize = if fields.flag("do_resize", true)? {
        let size = fields.size("size", square)?.unwrap_or(default_size);
        let filter = match fields.get("resample") {
            None => default_filter,
            Some(v) => match v.as_u64().and_then(Filter::from_pillow) {
                Some(f) => f,
                None => return fields.refuse("resample", v, "give a Pillow filter code from 0 to 5"),
            },
        };
        Some((size, filter))
    } else {
        None
    };

    let crop = if fields.flag("do_center_crop", defaults.crop.is_some())? {
        match fields.size("crop_size", true)? {
            Some(Size::Exact { height, width }) => Some((height, width)),
            Some(Size::ShortestEdge(_)) => {
                return fields.refuse("crop_size", &map["crop_size"], "give a number or {\"height\", \"width\"}");
            }
            None => match defaults.crop {
                Some(crop) => Some(crop),
                None => return fields.refuse("crop_size", &Value::Null, "do_center_crop needs a crop_size"),
            },
        }
    } else {
        None
    };

    let rescale = if fields.flag("do_rescale", true)? {
        match fields.get("rescale_factor") {
            None => defaults.rescale,
            Some(v) => match v.as_f64() {
                Some(f) if f.is_finite() && f != 0.0 => Some(f),
                _ => return fields.refuse("rescale_factor", v, "give a finite number other than 0"),
            },
        }
    } else {
        None
    };

    let normalize = if fields.flag("do_normalize", true)? {
        let mean = fields.numbers("image_mean", false)?.unwrap_or_else(|| vec![0.5; 3]);
        let std = fields.numbers("image_std", true)?.unwrap_or_else(|| vec![0.5; 3]);
        Some((mean, std))
    } else {
        None
    };
    Ok(Preprocessor { resize, crop, middle: Middle::Down, rescale, normalize })
}

/// timm resizes the shorter side to the input's over `crop_pct`, rounded down, and crops the middle.
fn timm(fields: &Fields<'_>) -> Result<Preprocessor> {
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
    let mean = fields.numbers("mean", false)?.unwrap_or_else(|| vec![0.485, 0.456, 0.406]);
    let std = fields.numbers("std", true)?.unwrap_or_else(|| vec![0.229, 0.224, 0.225]);
    Ok(Preprocessor {
        resize: Some((size, filter)),
        crop: Some((side, side)),
        middle: Middle::Even,
        rescale: Some(1.0 / 255.0),
        normalize: Some((mean, std)),
    })
}

/// The newer field wins, as in transformers.
fn family(fields: &Fields<'_>, fallback: Option<Family>) -> Result<Family> {
    let hint = "ViTImageProcessor, ViTFeatureExtractor, DeiTImageProcessor and DeiTFeatureExtractor are supported";
    for name in ["image_processor_type", "feature_extractor_type"] {
        let Some(value) = fields.get(name) else { continue };
        let class = value.as_str().unwrap_or_default();
        // "Fast" and "Pil" name back ends of the same class; the steps are the same.
        let class = class.strip_suffix("Fast").or_else(|| class.strip_suffix("Pil")).unwrap_or(class);
        return match class {
            "ViTImageProcessor" | "ViTFeatureExtractor" => Ok(Family::Vit),
            "DeiTImageProcessor" | "DeiTFeatureExtractor" => Ok(Family::Deit),
            _ => fields.refuse(name, value, hint),
        };
    }
    match fallback {
        Some(family) => Ok(family),
        None => fields.refuse("image_processor_type", &Value::Null, hint),
    }
}
