def test_smoke(storage, data_uri, embedded_mlflow):
    o = storage.write(data_uri + "/x", b"abc")
    assert storage.read(data_uri + "/x", etag=o.etag) == b"abc"
    assert storage.find(o.uri) == o
    assert storage.list(data_uri) == [o]
    assert embedded_mlflow.tracking_uri
