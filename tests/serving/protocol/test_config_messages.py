"""TF Serving's text configuration messages, compared with the files of its documentation."""

import pytest

from serving.protocol.config_messages import parse


def test_fields_are_tf_servings():
    batching = parse(
        "BatchingParameters",
        "max_batch_size { value: 128 } thread_pool_name { value: 'p' } allowed_batch_sizes: 64 "
        "allowed_batch_sizes: 128 enable_large_batch_splitting { value: true }",
    )
    assert (batching.max_batch_size.value, batching.thread_pool_name.value) == (128, "p")
    assert list(batching.allowed_batch_sizes) == [64, 128]
    assert batching.enable_large_batch_splitting.value
    assert not batching.HasField("batch_timeout_micros")
    monitoring = parse("MonitoringConfig", 'prometheus_config { enable: true, path: "/m" }')
    assert (monitoring.prometheus_config.enable, monitoring.prometheus_config.path) == (True, "/m")
    tls = parse("SSLConfig", 'server_key: "k\\n" server_cert: "c" client_verify: true')
    assert (tls.server_key, tls.server_cert, tls.custom_ca, tls.client_verify) == (
        "k\n",
        "c",
        "",
        True,
    )


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("BatchingParameters", "max_batch_size: 3", r"^1:\d+ : .*max_batch_size"),
        ("BatchingParameters", "\nmax_batch { value: 3 }", '^2:1 : .*"BatchingParameters" has no'),
        ("BatchingParameters", "max_batch_size { valeu: 3 }", 'type "Int64Value" has no field'),
        ("SSLConfig", "client_verify: 7", r"^1:\d+ : .*client_verify"),
    ],
)
def test_errors_have_position_and_field(name, text, words):
    with pytest.raises(ValueError, match=words):
        parse(name, text)
