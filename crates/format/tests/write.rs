//! What writing a file replaces, follows and refuses. Unix alone has the links and pipes that are tested here.
#![cfg(unix)]
#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;

use switchformer_format::store::{apart, unused, write_atomic, write_folder};

fn names(dir: &Path) -> Vec<String> {
    let mut all: Vec<String> =
        fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    all.sort();
    all
}

#[test]
fn links_are_followed_and_stay() {
    let temp = tempfile::tempdir().unwrap();
    let (a, b) = (temp.path().join("a"), temp.path().join("b"));
    fs::create_dir(&a).unwrap();
    fs::create_dir(&b).unwrap();
    fs::write(b.join("real"), "old").unwrap();
    symlink("../b/real", a.join("link")).unwrap();
    symlink("link", a.join("second")).unwrap();
    write_atomic(&a.join("second"), b"new").unwrap();
    assert_eq!(fs::read(b.join("real")).unwrap(), b"new");
    assert!(fs::symlink_metadata(a.join("link")).unwrap().is_symlink());
    // A link to nothing makes what it names.
    symlink("../b/fresh", a.join("ahead")).unwrap();
    write_atomic(&a.join("ahead"), b"x").unwrap();
    assert_eq!(
        (names(&a), names(&b)),
        (vec!["ahead".into(), "link".into(), "second".into()], vec!["fresh".into(), "real".into()])
    );
    symlink("loop", a.join("loop")).unwrap();
    assert_eq!(write_atomic(&a.join("loop"), b"x").unwrap_err().code(), "file.kind");
    // A folder behind a link.
    symlink("../b", a.join("folder")).unwrap();
    write_folder(&a.join("folder"), &[("one", b"1".to_vec())]).unwrap();
    assert!(fs::symlink_metadata(a.join("folder")).unwrap().is_symlink());
    assert_eq!(names(&b), ["one"]);
}

#[test]
fn a_pipe_is_written_to_and_stays_a_pipe() {
    let temp = tempfile::tempdir().unwrap();
    let pipe = temp.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let reader = std::thread::spawn({
        let pipe = pipe.clone();
        move || {
            let mut got = Vec::new();
            fs::File::open(pipe).unwrap().read_to_end(&mut got).unwrap();
            got
        }
    });
    write_atomic(&pipe, b"through").unwrap();
    assert_eq!(reader.join().unwrap(), b"through");
    assert!(fs::symlink_metadata(&pipe).unwrap().file_type().is_fifo());
    assert_eq!(write_folder(&pipe, &[("a", vec![])]).unwrap_err().code(), "file.kind");
    assert_eq!(names(temp.path()), ["pipe"]);
}

#[test]
fn folders_sockets_and_open_files_are_refused() {
    let temp = tempfile::tempdir().unwrap();
    let at = |name: &str| temp.path().join(name);
    fs::create_dir(at("folder")).unwrap();
    let _socket = UnixListener::bind(at("socket")).unwrap();
    for name in ["folder", "socket"] {
        assert_eq!(write_atomic(&at(name), b"x").unwrap_err().code(), "file.kind", "{name}");
    }
    assert_eq!(names(temp.path()), ["folder", "socket"]);
    assert!(write_folder(&at("socket"), &[("a", vec![])]).is_err());
    #[cfg(target_os = "linux")]
    {
        use std::os::fd::AsRawFd;
        let file = fs::File::create(at("open")).unwrap();
        let name = format!("/proc/self/fd/{}", file.as_raw_fd());
        assert_eq!(write_atomic(Path::new(&name), b"x").unwrap_err().code(), "file.kind");
    }
}

#[test]
fn what_is_read_is_not_overwritten() {
    let temp = tempfile::tempdir().unwrap();
    let at = |name: &str| temp.path().join(name);
    for dir in ["model", "blobs", "model/pooling"] {
        fs::create_dir(at(dir)).unwrap();
    }
    for file in ["model/config.json", "blobs/weights", "input", "else"] {
        fs::write(at(file), "x").unwrap();
    }
    symlink("../blobs/weights", at("model/model.safetensors")).unwrap();
    symlink("../../else", at("model/pooling/config.json")).unwrap();
    symlink("input", at("alias")).unwrap();
    let read = [at("model"), at("input"), at("nothing")];
    for file in
        ["model/config.json", "model/model.safetensors", "blobs/weights", "input", "alias", "else", "model/../input"]
    {
        let e = apart(&at(file), &read).unwrap_err();
        assert!(e.to_string().contains("overwritten"), "{file}: {e}");
    }
    for file in ["model/out.safetensors", "fresh", "blobs/other"] {
        apart(&at(file), &read).unwrap();
    }
    symlink("nowhere", at("dangling")).unwrap();
    assert!(unused(&at("dangling")).is_err() && unused(&at("fresh")).is_ok());
}

#[test]
fn threads_that_write_one_file_leave_it_whole() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("file");
    std::thread::scope(|scope| {
        for i in 0..8u8 {
            let path = &path;
            scope.spawn(move || (0..20).for_each(|_| write_atomic(path, &vec![i; 1 << 16]).unwrap()));
        }
    });
    let bytes = fs::read(&path).unwrap();
    assert!(bytes.len() == 1 << 16 && bytes.iter().all(|b| *b == bytes[0]));
    assert_eq!(names(temp.path()), ["file"]);
}
