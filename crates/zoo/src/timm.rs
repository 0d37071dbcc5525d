//! timm's folder form: `config.json` names an architecture, the number of classes and the arguments of its constructor.

use serde_json::{Map, Value as Json, json};
use switchformer_nn::{Error, Result};

use crate::entry::Timm;
use crate::published::Fields;
use crate::registry::TIMM;

/// Arguments that act in training only, or say how weights start.
const TRAINING: &[&str] = &[
    "drop_rate",
    "drop_path_rate",
    "attn_drop_rate",
    "proj_drop_rate",
    "pos_drop_rate",
    "weight_init",
    "strict_img_size",
    "use_checkpoint",
    "use_chk",
    "use_checkpoints",
    "layer_init_values",
    "head_init_scale",
];

/// A config with `model_type` as it is; timm's form under the names of the model that computes it. Unknown
/// architectures and arguments are refused by name.
pub fn canonical(doc: Json) -> Result<Json> {
    let Some(name) = doc.get("architecture").and_then(Json::as_str).filter(|_| doc.get("model_type").is_none()) else {
        return Ok(doc);
    };
    let (timm, variant) = find(name)?;
    let mut config = json!({"model_type": timm.entry.name, "architectures": [timm.architecture]});
    let Some(fields) = config.as_object_mut() else { return Ok(config) };
    let constructor = timm.entry.constructor()?;
    for theirs in [&constructor.fixed, variant] {
        fields.extend(theirs.clone());
    }
    // Older files have no part of their own for what timm keeps of a checkpoint.
    let stored = doc.get("pretrained_cfg").filter(|v| v.is_object()).unwrap_or(&doc);
    let said = |of: &Json, key: &str| of.get(key).filter(|v| !v.is_null()).cloned();
    let classes = said(&doc, "num_classes").or_else(|| said(stored, "num_classes"));
    match classes {
        Some(n) => drop(fields.insert("num_labels".into(), n)),
        None => drop(fields.entry("num_labels").or_insert(1000.into())),
    }
    let none = Map::new();
    let args = match doc.get("model_args") {
        None | Some(Json::Null) => &none,
        Some(Json::Object(args)) => args,
        Some(_) => return Err(Error::config("model_args", "must be an object")),
    };
    of_images(timm, stored, args, fields)?;
    for (key, value) in
        doc.get("global_pool").map(|p| ("global_pool", p)).into_iter().chain(args.iter().map(|(k, v)| (k.as_str(), v)))
    {
        match timm.args.iter().find(|(theirs, _)| *theirs == key) {
            Some((_, ours)) => drop(fields.insert((*ours).to_string(), value.clone())),
            None if key == "global_pool" && value.as_str() == Some(timm.pool) => {}
            None if key == "num_classes" => drop(fields.insert("num_labels".into(), value.clone())),
            None if TRAINING.contains(&key) => {}
            None => {
                let known: Vec<&str> = timm.args.iter().map(|(theirs, _)| *theirs).collect();
                let value: String = value.to_string().chars().take(60).collect();
                return Err(Error::unsupported(
                    format!("model_args.{key}"),
                    value,
                    format!("{}, global_pool = {}", known.join(", "), timm.pool),
                ));
            }
        }
    }
    if fields.get("num_labels").and_then(Json::as_u64) == Some(0) {
        fields.extend(constructor.classless.clone());
    }
    Ok(config)
}

/// Channels of the images, and their size where the model has it too. Arguments of the constructor go before.
fn of_images(timm: &Timm, stored: &Json, args: &Fields, fields: &mut Fields) -> Result<()> {
    let size = stored.get("input_size").filter(|size| !size.is_null());
    let Some(size) = size else { return Ok(()) };
    let Some([channels, height, width]) = size.as_array().map(Vec::as_slice) else {
        return Err(Error::config("pretrained_cfg.input_size", "must be [channels, height, width]"));
    };
    let size = if height == width { height.clone() } else { json!([height, width]) };
    // Such models read images of other sizes than theirs.
    let free = args.get("strict_img_size").is_some_and(|v| *v == false);
    let fixed = stored.get("fixed_input_size").is_some_and(|v| *v == true) && !free;
    for (theirs, value) in [("in_chans", Some(channels.clone())), ("img_size", Some(size).filter(|_| fixed))] {
        let ours = timm.args.iter().find(|(name, _)| *name == theirs);
        if let (Some((_, ours)), Some(value), None) = (ours, value, args.get(theirs)) {
            fields.insert((*ours).to_string(), value);
        }
    }
    Ok(())
}

/// Family and fields of a variant (none for a bare family). A tag behind a dot names weights, not a shape.
fn find(name: &str) -> Result<(&'static Timm, &'static Fields)> {
    let slug = name.split('.').next().unwrap_or_default().replace('_', "-");
    for timm in TIMM {
        if slug == timm.family.replace('_', "-") {
            return Ok((timm, &timm.entry.constructor()?.bare));
        }
        if let Some(v) = timm.entry.variants()?.iter().find(|v| v.name == slug) {
            return Ok((timm, &v.config));
        }
        let mut names = timm.entry.constructor()?.names.iter();
        if let Some((_, fields)) = names.find(|(name, _)| name.replace('_', "-") == slug) {
            return Ok((timm, fields));
        }
    }
    let families: Vec<_> = TIMM.iter().map(|t| t.family).collect();
    Err(Error::unsupported("architecture", name, format!("variants of {}", families.join(", "))))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn variants_families_and_arguments() {
        let c = canonical(json!({"architecture": "swin_base_patch4_window12_384.ms_in22k_ft_in1k", "num_classes": 7,
            "global_pool": "avg", "model_args": {"in_chans": 1, "drop_path_rate": 0.3}, "pretrained_cfg": {}}))
        .unwrap();
        assert_eq!((&c["model_type"], &c["num_labels"], &c["num_channels"]), (&json!("swin"), &json!(7), &json!(1)));
        assert_eq!((&c["embed_dim"], &c["pad_after_shift"]), (&json!(128), &json!(true)));
        assert_eq!(canonical(json!({"architecture": "swin"})).unwrap()["num_labels"], 1000);
        let same = json!({"model_type": "swin", "architecture": "x"});
        assert_eq!(canonical(same.clone()).unwrap(), same);
    }

    #[test]
    fn the_trained_size_is_that_of_the_weights() {
        let read = |doc: Json| canonical(doc).unwrap();
        let name = "vit_small_patch14_dinov2.lvd142m";
        let cfg = json!({"input_size": [3, 224, 238], "fixed_input_size": true});
        let c = read(json!({"architecture": name, "num_classes": 0, "pretrained_cfg": cfg}));
        assert_eq!(
            (&c["image_size"], &c["init_values"], &c["hidden_size"]),
            (&json!([224, 238]), &json!(1e-5), &json!(384))
        );
        assert_eq!((&c["architectures"], &c["class_row_is_pooled"]), (&json!(["ViTModel"]), &json!(true)));
        let said = json!({"img_size": 98});
        let c = read(json!({"architecture": name, "num_classes": 5, "pretrained_cfg": cfg, "model_args": said}));
        assert_eq!((&c["image_size"], &c["architectures"]), (&json!(98), &json!(["ViTForImageClassification"])));
        // Older folders hold the fields of the weights at the top.
        let c = read(
            json!({"architecture": "beit_base_patch16_224", "input_size": [1, 64, 64], "fixed_input_size": false}),
        );
        assert_eq!((&c["num_channels"], c.get("image_size"), &c["num_labels"]), (&json!(1), None, &json!(1000)));
        let wrong = canonical(json!({"architecture": name, "pretrained_cfg": {"input_size": 224}})).unwrap_err();
        assert!(wrong.to_string().contains("input_size"), "{wrong}");
        for (name, family) in [
            ("vit_base_patch32_384.augreg_in21k_ft_in1k", "vit"),
            ("vit_large_patch14_reg4_dinov2.lvd142m", "vit"),
            ("deit_tiny_patch16_224.fb_in1k", "vit"),
            ("deit3_base_patch16_384.fb_in22k_ft_in1k", "vit"),
            ("deit_base_distilled_patch16_384.fb_in1k", "deit"),
            ("beitv2_large_patch16_224.in1k_ft_in22k", "beit"),
        ] {
            assert_eq!(read(json!({"architecture": name}))["model_type"], family, "{name}");
        }
        for name in ["vit_giant_patch14_dinov2", "vit_base_patch16_clip_224", "vit_base_patch16_siglip_224"] {
            assert!(canonical(json!({"architecture": name})).unwrap_err().to_string().contains(name));
        }
    }

    #[test]
    fn a_bare_family_takes_what_its_constructor_takes() {
        let field = |name: &str, field: &str| canonical(json!({"architecture": name})).unwrap()[field].clone();
        for (name, own, bare, published) in [
            ("smt", "qkv_bias", json!(false), ("smt_t", json!(null))),
            ("pvt_v2", "mlp_ratios", json!([4, 4, 4, 4]), ("pvt_v2_b0", json!(null))),
            ("ecoformer_pvt_v2", "qkv_bias", json!(false), ("ecoformer_pvt_v2_b0", json!(null))),
            ("cswin", "split_size", json!([3, 5, 7]), ("CSWin_64_12211_tiny_224", json!(null))),
            ("swin", "square_windows", json!(true), ("swin_tiny_patch4_window7_224", json!(null))),
            ("svt", "layer_norm_eps", json!(1e-5), ("svt_s", json!(null))),
            ("swinv2", "image_size", json!(null), ("swinv2_tiny_window8_256", json!(256))),
            ("crossvit", "img_size", json!(224), ("crossvit_9_240", json!(240))),
        ] {
            assert_eq!(field(name, own), bare, "{name}");
            assert_eq!(field(published.0, own), published.1, "{}", published.0);
        }
        // What a folder says goes before either.
        let said = canonical(json!({"architecture": "smt", "model_args": {"qkv_bias": true}})).unwrap();
        assert_eq!(said["qkv_bias"], true);
        assert_eq!(canonical(json!({"architecture": "fmvit"})).unwrap()["model_type"], "fmvit");
    }

    #[test]
    fn a_checkpoint_says_its_size_channels_and_classes() {
        let part = json!({"input_size": [1, 256, 256], "fixed_input_size": true, "num_classes": 5});
        let read = |doc: Json| {
            let c = canonical(doc).unwrap();
            json!([c["image_size"], c["num_channels"], c["num_labels"]])
        };
        assert_eq!(read(json!({"architecture": "swin", "pretrained_cfg": part})), json!([256, 1, 5]));
        let mut old = part.clone();
        old["architecture"] = "swin".into();
        assert_eq!(read(old), json!([256, 1, 5]));
        let own = json!({"img_size": 192, "in_chans": 2});
        let doc = json!({"architecture": "swin", "num_classes": 7, "pretrained_cfg": part, "model_args": own});
        assert_eq!(read(doc), json!([192, 2, 7]));
        let plain = json!({"input_size": [3, 256, 256], "fixed_input_size": false});
        assert_eq!(
            read(json!({"architecture": "swin", "pretrained_cfg": plain}))[0],
            read(json!({"architecture": "swin"}))[0]
        );
    }

    #[test]
    fn what_is_not_supported_is_named() {
        let refused = |doc: Json| canonical(doc).unwrap_err().to_string();
        assert!(refused(json!({"architecture": "resnet50"})).contains("resnet50"));
        assert!(refused(json!({"architecture": "swin", "model_args": {"knn": true}})).contains("knn"));
        assert!(refused(json!({"architecture": "swin", "global_pool": "max"})).contains("global_pool"));
        assert!(refused(json!({"architecture": "swin", "model_args": [1]})).contains("model_args"));
        let vit = |doc: Json| refused(json!({"architecture": "vit_base_patch16_224", "model_args": doc}));
        for arg in ["class_token", "pre_norm", "qk_norm", "dynamic_img_size", "fc_norm", "pos_embed"] {
            assert!(vit(json!({arg: true})).contains(&format!("model_args.{arg}")), "{arg}");
        }
        assert!(refused(json!({"architecture": "vit_base_patch16_224", "global_pool": "avg"})).contains("global_pool"));
    }
}
