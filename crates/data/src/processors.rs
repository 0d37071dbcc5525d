//! The image processor classes of transformers and what each does where a file says nothing.

use crate::resize::Filter;

/// Which processor class of transformers a configuration belongs to; decides the defaults.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// `ViTImageProcessor`.
    Vit,
    /// `DeiTImageProcessor`: crops the middle.
    Deit,
    /// `PvtImageProcessor`.
    Pvt,
    /// `ConvNextImageProcessor`: below 384 it resizes the shorter side to the size over `crop_pct` and crops the middle.
    ConvNext,
    /// `BitImageProcessor`: resizes the shorter side and crops the middle.
    Bit,
    /// `CLIPImageProcessor`: as `BitImageProcessor`.
    Clip,
    /// `SiglipImageProcessor`.
    Siglip,
    /// `BeitImageProcessor`.
    Beit,
    /// `SegformerImageProcessor`: never crops.
    Segformer,
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

impl Size {
    /// Equal sides.
    pub(crate) fn square(side: usize) -> Size {
        Size::Exact { height: side, width: side }
    }
}

/// Which library's arithmetic a processor follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// Pillow and NumPy: the classes with plain names.
    Pillow,
    /// torchvision: the classes called `Fast`, which resize with 16-bit weights, rows first.
    Torchvision,
}

/// The steps of a class by default.
pub(crate) struct Class {
    pub(crate) size: Size,
    pub(crate) filter: Filter,
    /// Side of the crop, and whether it is taken unless the file says otherwise.
    pub(crate) crop: Option<(usize, bool)>,
    pub(crate) mean: [f32; 3],
    pub(crate) std: [f32; 3],
    /// Whether a `size` that is one number gives both sides.
    pub(crate) square: bool,
}

const HALF: [f32; 3] = [0.5; 3];
/// Mean and deviation of ImageNet.
pub(crate) const IMAGENET: ([f32; 3], [f32; 3]) = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]);
/// Mean and deviation of what CLIP was trained on.
const CLIP: ([f32; 3], [f32; 3]) =
    ([0.481_454_66, 0.457_827_5, 0.408_210_73], [0.268_629_54, 0.261_302_6, 0.275_777_1]);

/// Every class with its name, less `ImageProcessor`.
const CLASSES: [(&str, Family); 9] = [
    ("ViT", Family::Vit),
    ("DeiT", Family::Deit),
    ("Pvt", Family::Pvt),
    ("ConvNext", Family::ConvNext),
    ("Bit", Family::Bit),
    ("CLIP", Family::Clip),
    ("Siglip", Family::Siglip),
    ("Beit", Family::Beit),
    ("Segformer", Family::Segformer),
];

impl Family {
    /// The class of a name in a file: `ViTImageProcessor`, `ViTImageProcessorFast`, `ViTFeatureExtractor`.
    pub(crate) fn named(class: &str) -> Option<(Family, Backend)> {
        let (class, backend) = match class.strip_suffix("Fast") {
            Some(class) => (class, Backend::Torchvision),
            None => (class.strip_suffix("Pil").unwrap_or(class), Backend::Pillow),
        };
        let class = class.strip_suffix("ImageProcessor").or_else(|| class.strip_suffix("FeatureExtractor"))?;
        CLASSES.iter().find(|(name, _)| *name == class).map(|(_, family)| (*family, backend))
    }

    /// The classes that are read, for a message.
    pub(crate) fn known() -> String {
        let names: Vec<String> = CLASSES.iter().map(|(name, _)| format!("{name}ImageProcessor")).collect();
        format!("supported: {} (each also with Fast, and as FeatureExtractor)", names.join(", "))
    }

    /// The class that transformers takes for a `model_type` where a file names none.
    pub fn of_model(model_type: &str) -> Family {
        match model_type {
            "deit" => Family::Deit,
            "pvt" | "pvt_v2" => Family::Pvt,
            "convnext" | "convnextv2" | "cvt" => Family::ConvNext,
            "bit" | "dinov2" | "focalnet" | "hiera" => Family::Bit,
            "clip" | "clip_vision_model" => Family::Clip,
            "siglip" | "siglip_vision_model" => Family::Siglip,
            "beit" | "data2vec-vision" => Family::Beit,
            "segformer" | "upernet" => Family::Segformer,
            _ => Family::Vit,
        }
    }

    /// What the class does where a file says nothing.
    pub(crate) fn class(self) -> Class {
        let plain =
            |side, filter, (mean, std)| Class { size: Size::square(side), filter, crop: None, mean, std, square: true };
        let (cubic, half) = (Filter::Bicubic, (HALF, HALF));
        let shorter = |side, crop, constants| Class {
            size: Size::ShortestEdge(side),
            crop,
            square: false,
            ..plain(side, cubic, constants)
        };
        match self {
            Family::Vit => plain(224, Filter::Bilinear, half),
            Family::Deit => Class { crop: Some((224, true)), ..plain(256, cubic, half) },
            Family::Pvt => plain(224, cubic, IMAGENET),
            Family::ConvNext => shorter(384, None, half),
            Family::Bit | Family::Clip => shorter(224, Some((224, true)), CLIP),
            Family::Siglip => Class { square: false, ..plain(224, cubic, half) },
            Family::Beit => Class { crop: Some((224, false)), ..plain(224, cubic, half) },
            Family::Segformer => plain(512, Filter::Bilinear, IMAGENET),
        }
    }
}
