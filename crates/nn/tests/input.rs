//! Inputs are named parts: any model's slots, any kind of part, and errors that name what is wrong.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use switchformer_nn::init::Stream;
use switchformer_nn::{Input, InputSpec, Kind, Member, Members, Part, Slot};
use switchformer_tensor::{DType, Tensor};

fn ids(rows: &[&[i64]]) -> Tensor {
    Tensor::from_vec(rows.concat(), (rows.len(), rows[0].len())).unwrap()
}

fn floats(shape: &[usize]) -> Tensor {
    Tensor::arange(0f32, shape.iter().product::<usize>() as f32).unwrap().reshape(shape).unwrap()
}

fn given(all: &[(&str, Tensor)]) -> BTreeMap<String, Tensor> {
    all.iter().map(|(name, t)| (name.to_string(), t.clone())).collect()
}

/// A denoiser under text: no model here is one.
fn denoiser() -> InputSpec {
    InputSpec::images(1, (4, 4), (2, 2))
        .with(Slot::new("timestep", Kind::PerMember { shape: vec![] }))
        .with(Slot {
            mask: Some("encoder_attention_mask"),
            ..Slot::new("encoder_hidden_states", Kind::Rows { width: 3 })
        })
        .with(Slot { optional: true, ..Slot::new("class_labels", Kind::PerMember { shape: vec![2] }) })
}

fn refused(all: &[(&str, Tensor)], spec: &InputSpec, says: &[&str]) {
    let error = Input::from_tensors(&given(all), spec).unwrap_err().to_string();
    assert!(says.iter().all(|s| error.contains(s)), "{error}");
}

#[test]
fn any_slots_are_read_from_named_tensors() {
    let mask = ids(&[&[1, 1, 0], &[0, 0, 1]]);
    let all = [
        ("pixel_values", floats(&[2, 1, 4, 4])),
        ("timestep", floats(&[2])),
        ("encoder_hidden_states", floats(&[2, 3, 3])),
        ("encoder_attention_mask", mask),
    ];
    let input = Input::from_tensors(&given(&all), &denoiser()).unwrap();
    input.check(&denoiser()).unwrap();
    assert_eq!((input.n(), input.pixels(1).unwrap().len()), (2, 1));
    assert_eq!(input.per_member("timestep").unwrap().to_vec1::<f32>().unwrap(), [0.0, 1.0]);
    let (x, rows) = input.rows("encoder_hidden_states").unwrap();
    assert_eq!((rows.lens(), rows.positions()), (vec![2, 1], &[0, 1, 2][..]), "padding is gone, places are kept");
    assert_eq!(x.to_vec2::<f32>().unwrap(), [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0], [15.0, 16.0, 17.0]]);
    // One member alone takes its own of every part.
    let one = input.member(1).unwrap();
    assert_eq!(one.per_member("timestep").unwrap().to_vec1::<f32>().unwrap(), [1.0]);
    assert_eq!(one.rows("encoder_hidden_states").unwrap().0.to_vec2::<f32>().unwrap(), [[15.0, 16.0, 17.0]]);
    assert_eq!(one.pixels(1).unwrap()[0].flatten_all().unwrap().to_vec1::<f32>().unwrap()[0], 16.0);
}

#[test]
fn what_is_missing_or_unknown_is_named() {
    let spec = denoiser();
    let (pixels, steps) = (("pixel_values", floats(&[2, 1, 4, 4])), ("timestep", floats(&[2])));
    let states = ("encoder_hidden_states", floats(&[2, 3, 3]));
    refused(&[pixels.clone(), states.clone()], &spec, &["timestep", "missing"]);
    refused(&[steps.clone(), states.clone()], &spec, &["reads images", "pixel_values"]);
    let other = ("prompt", floats(&[2]));
    let names = [
        "unknown input `prompt`",
        "pixel_values, timestep, encoder_hidden_states, encoder_attention_mask, class_labels",
    ];
    refused(&[pixels.clone(), steps.clone(), states.clone(), other], &spec, &names);
    refused(&[pixels.clone(), ("timestep", floats(&[3])), states.clone()], &spec, &["timestep has 3 entries for 2"]);
    refused(&[pixels.clone(), steps.clone(), ("encoder_hidden_states", floats(&[2, 3, 4]))], &spec, &["[b, n, 3]"]);
    refused(&[pixels, steps, states, ("class_labels", floats(&[2, 3]))], &spec, &["class_labels"]);
    refused(&[], &spec, &["pixel_values"]);
    // The mask of a text that is not there.
    let text = InputSpec::text(9, 9);
    let slot = Slot::new("decoder_input_ids", Kind::Ids { vocab: 9, max_len: 9 });
    let maybe = text.with(Slot { optional: true, mask: Some("decoder_attention_mask"), ..slot });
    let source = ("input_ids", ids(&[&[1, 2]]));
    refused(&[source, ("decoder_attention_mask", ids(&[&[1]]))], &maybe, &["decoder_attention_mask without"]);
}

#[test]
fn parts_a_model_does_not_take_are_refused() {
    let text = Input::tokens(&[[1u32, 2]]).unwrap();
    let error = text.check(&denoiser()).unwrap_err().to_string();
    assert!(error.contains("reads images"), "{error}");
    let typed = text.clone().with("token_type_ids", Part::tokens(&[[0u32, 1]]).unwrap()).unwrap();
    typed.check(&InputSpec::text(9, 9).with_types(2)).unwrap();
    let error = typed.check(&InputSpec::text(9, 9)).unwrap_err().to_string();
    assert!(error.contains("token_type_ids") && error.contains("input_ids, attention_mask"), "{error}");
    // As many types as tokens, of every member.
    let odd = text.with("token_type_ids", Part::tokens(&[[0u32]]).unwrap()).unwrap();
    assert!(odd.token_types().unwrap_err().to_string().contains("token_type_ids"));
}

#[test]
fn two_sides_may_differ_in_number() {
    let images =
        Slot { own_number: true, ..Slot::new("pixel_values", Kind::Maps { channels: 1, size: (2, 2), patch: (1, 1) }) };
    let spec = InputSpec::text(9, 9).with(images);
    let all = [("input_ids", ids(&[&[1, 2], &[3, 4], &[5, 6]])), ("pixel_values", floats(&[2, 1, 2, 2]))];
    let input = Input::from_tensors(&given(&all), &spec).unwrap();
    assert_eq!((input.n(), input.image_sizes(1).unwrap().len()), (3, 2));
    // A member is a text; what it is compared with stays whole.
    let one = input.member(2).unwrap();
    assert_eq!((one.ids("input_ids").unwrap().ids.as_slice(), one.image_sizes(1).unwrap().len()), (&[5, 6][..], 2));
}

#[test]
fn images_may_differ_in_size() {
    let images = [floats(&[1, 2, 2]), floats(&[1, 2, 2]), floats(&[1, 1, 4]), floats(&[1, 2, 2])];
    let input = Input::images(&images).unwrap();
    let runs: Vec<usize> = input.pixels(1).unwrap().iter().map(|t| t.dims()[0]).collect();
    assert_eq!((input.n(), runs), (4, vec![2, 1, 1]));
    for (i, image) in images.iter().enumerate() {
        let one = input.member(i).unwrap();
        assert_eq!(
            one.pixels(1).unwrap()[0].get(0).unwrap().to_vec3::<f32>().unwrap(),
            image.to_vec3::<f32>().unwrap()
        );
    }
    assert!(input.member(4).is_err());
    assert!(Input::images(&[]).unwrap().pixels(1).is_err(), "no image is an error");
    assert!(Input::images(&[floats(&[2, 2, 2])]).unwrap().pixels(1).is_err(), "channels are checked");
    assert!(Input::pixel_values(Tensor::zeros((1, 1, 2, 2), DType::F64).unwrap()).pixels(1).is_err());
}

#[test]
fn an_input_of_any_slots_can_be_made() {
    let spec = denoiser();
    for stream in [None, Some(Stream::named("sample"))] {
        let input = Input::sample(&spec, &[2, 5], Some((6, 4)), stream.as_ref()).unwrap();
        input.check(&spec).unwrap();
        assert_eq!((input.n(), input.image_sizes(1).unwrap()), (2, vec![(6, 4); 2]));
        assert_eq!(input.rows("encoder_hidden_states").unwrap().1.lens(), [2, 5]);
        assert_eq!(input.per_member("timestep").unwrap().dims(), [2]);
        let pair = Input::sample(&InputSpec::text(50, 9).with_target(50, 9), &[2, 5], None, stream.as_ref()).unwrap();
        assert_eq!(pair.ids("decoder_input_ids").unwrap().rows.lens(), [2, 5]);
        let all = &pair.ids("input_ids").unwrap().ids;
        assert!(all.iter().all(|id| *id < 50 && (stream.is_none() || *id >= 25)), "{all:?}");
    }
}

#[test]
fn members_are_as_many_as_entries() {
    let text = Input::tokens(&[[1u32], [2]]).unwrap();
    assert!(text.clone().of_members(Members::new([Member::default()])).is_err());
    let second = Member { place: 4, seed: Some(7), cancelled: None };
    let input = text.of_members(Members::new([Member::default(), second])).unwrap();
    let one = input.member(1).unwrap();
    assert_eq!((one.members().place(0), one.members().seed(0), one.members().can_cancel()), (4, Some(7), false));
    assert!(
        Input::tokens(&[[1u32]]).unwrap().with("decoder_input_ids", Part::tokens(&[[1u32], [2]]).unwrap()).is_err()
    );
}
