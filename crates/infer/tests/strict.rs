//! Requests and answers in JSON: an object is an object, no key twice, no number that would be another.

#![allow(clippy::unwrap_used)]

use serde_json::{from_str, json, to_string};
use switchformer_infer::{Answer, GenerationOptions, NamedTensors, Request, Shape};
use switchformer_nn::Point;

fn refused<T: for<'de> serde::Deserialize<'de>>(text: &str, says: &str) {
    let e = from_str::<T>(text).err().unwrap_or_else(|| panic!("{text} is accepted")).to_string();
    assert!(e.contains(says), "{text}: {e}");
}

#[test]
fn no_key_counts_twice() {
    refused::<Request>(r#"{"inputs":{"texts":["a"]},"point":{"bits":8,"bits":4}}"#, "duplicate key \"bits\"");
    refused::<Request>(r#"{"inputs":{"texts":["a"]},"point":{"exit":{"confidence":1,"confidence":0}}}"#, "confidence");
    refused::<Request>(r#"{"inputs":{"texts":["a"]},"seed":1,"seed":2}"#, "duplicate field `seed`");
    refused::<Point>(r#"{"bits":8,"bits":4}"#, "duplicate key \"bits\"");
    let one = r#""a":{"shape":[1],"data":[1]}"#;
    refused::<NamedTensors>(&format!("{{{one},{one}}}"), "duplicate key \"a\"");
    refused::<Request>(&format!(r#"{{"inputs":{{"tensors":{{{one},{one}}}}}}}"#), "duplicate key \"a\"");
}

#[test]
fn a_list_is_no_object() {
    refused::<Request>(r#"[{"texts":["a"]}]"#, "an object with the keys inputs, point");
    refused::<Request>(r#"{"inputs":{"questions":[["a"],"b"]}}"#, "questions, passage");
    refused::<Request>(r#"{"inputs":{"images":[["a","YQ=="]]}}"#, "name, bytes");
    refused::<Request>(r#"{"inputs":{"tensors":{"a":[[1],[1]]}}}"#, "shape, data");
    refused::<Request>(r#"{"inputs":{"texts":["a"]},"generation":[5]}"#, "max_tokens");
    refused::<GenerationOptions>("[5]", "max_tokens");
    refused::<Point>("[8]", "not a JSON object");
    let request: Request = from_str(r#"{"inputs":{"texts":["a"]},"point":null,"generation":{"beams":2}}"#).unwrap();
    assert!(request.point.is_none() && request.generation.unwrap().beams == Some(2));
}

#[test]
fn a_number_beyond_f32_is_an_error() {
    for data in ["[1e39]", "[0.5,-1e39]"] {
        let n = data.matches(',').count() + 1;
        refused::<NamedTensors>(&format!(r#"{{"a":{{"shape":[{n}],"data":{data}}}}}"#), "beyond what f32 can hold");
    }
    let large: NamedTensors = from_str(r#"{"a":{"shape":[2],"data":[3.4e38,0.5]}}"#).unwrap();
    assert_eq!(large.map["a"].to_vec1::<f32>().unwrap(), [3.4e38, 0.5]);
}

#[test]
fn shapes_come_back_as_they_were() {
    for shape in [
        Shape::PerSample(vec![2, 3]),
        Shape::PerRow { rows: vec![1], width: vec![2] },
        Shape::Each(vec![Some(vec![1]), Some(vec![2])]),
        Shape::Each(vec![None, Some(vec![2, 2])]),
    ] {
        assert_eq!(from_str::<Shape>(&to_string(&shape).unwrap()).unwrap(), shape);
    }
    let answer = json!({"point": {"bits": 4}, "outputs": {"a": [1]}, "results": [{"input": "x"}], "macs": 1, "decision_macs": 0});
    let text = answer.to_string();
    assert_eq!(serde_json::to_value(from_str::<Answer>(&text).unwrap()).unwrap(), answer);
    refused::<Answer>(&text.replace(r#""a":[1]"#, r#""a":[1],"a":[2]"#), "duplicate key \"a\"");
}
