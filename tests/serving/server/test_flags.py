"""TF Serving's flags: all of them are taken, the unknown refused."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from serving.deploy.check.flags import FLAGS
from serving.server.errors import ServerError
from serving.server.flags import make_parser, parse_flags, unused_warnings
from serving.server.options import ServerOptions, channel_arguments, read_options


def parsed(*arguments):
    return parse_flags(make_parser(), arguments)


def test_defaults_say_nothing_and_switch_nothing_on():
    flags = parsed()
    assert unused_warnings(flags) == []
    assert read_options(flags) == ServerOptions(health=False, load_threads=0)


def test_tf_servings_own_defaults_pass_without_a_word():
    flags = parsed("--enable_profiler=true", "--saved_model_tags=serve")
    assert unused_warnings(flags) == []


def test_a_flag_without_effect_says_why():
    flags = parsed("--mixed_precision=bfloat16", "--num_unload_threads=2")
    lines = unused_warnings(flags)
    assert len(lines) == 2
    assert "--num_unload_threads has no effect: " in lines[0]


@pytest.mark.parametrize("flag", ["--use_alts_credentials", "--saved_model_tags=gpu"])
def test_a_flag_that_must_have_an_effect_is_refused(flag):
    with pytest.raises(ServerError, match=flag.partition("=")[0]):
        unused_warnings(parsed(flag))


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--rest_api_enable_cors", "nearest: --rest_api_enable_cors_support"),
        ("--enable_profile", "nearest: --enable_profiler"),
        ("--qqq=1", "unknown: --qqq"),
        ("--num_unload_threads=x", "invalid int value"),
        ("--enable_profiler=yes", "true or false"),
    ],
)
def test_a_wrong_flag_ends_with_status_2(flag, words, capsys):
    with pytest.raises(SystemExit) as ended:
        parsed(flag)
    assert ended.value.code == 2
    assert words in capsys.readouterr().err


@pytest.fixture
def served(monkeypatch):
    """`(*flags) -> what `serve` is called with`, and what lies in the models' folders then."""
    from serving.server import __main__ as command

    calls = []

    def serve(models, **keywords):
        listed = [[path.name for path in config.base_path.iterdir()] for config in models]
        calls.append(SimpleNamespace(models=models, listed=listed, **keywords))

    def run(*flags):
        assert command.main(flags) == 0
        return calls[-1]

    monkeypatch.setattr(command, "serve", serve)
    return run


def test_vertex_opens_rest_alone_and_leaves_nothing(served, monkeypatch, tmp_path):
    model, temporary = tmp_path / "model", tmp_path / "tmp"
    model.mkdir()
    temporary.mkdir()
    (model / "saved_model.pb").touch()
    monkeypatch.setenv("AIP_STORAGE_URI", str(model))
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    # The image's own command has that flag.
    call = served("--host=0.0.0.0", "--vertex")
    assert (call.host, call.options.rest_host) == ("127.0.0.1", "0.0.0.0")
    assert call.options.model_roots is None
    assert call.listed == [["1"]]
    assert not call.models[0].base_path.exists()
    assert list(temporary.iterdir()) == []


def test_hosts_and_roots(served, tmp_path):
    base = f"--model_base_path={tmp_path}"
    call = served(base, "--host=::1")
    assert (call.host, call.options.rest_host, call.options.model_roots) == ("::1", "", ())
    call = served(base, "--model_roots=/a", "--model_roots=/b")
    assert call.options.model_roots == (Path("/a"), Path("/b"))


def test_vertex_has_no_roots(capsys):
    from serving.server.__main__ import main

    assert main(["--vertex", "--model_roots=/a"]) == 1
    assert "leave --model_roots out" in capsys.readouterr().err


def test_every_flag_of_tf_serving_is_taken():
    known = {name for action in make_parser()._actions for name in action.option_strings}
    assert {f"--{name}" for name in FLAGS} - known == set()


def test_the_limit_of_a_run_reaches_the_engines():
    for flags, limit in (([], 300_000), (["--run_timeout_ms=250"], 250)):
        assert read_options(parsed(*flags)).engines.run_timeout_ms == limit


def test_channel_arguments():
    assert channel_arguments("") == []
    text = "grpc.max_connection_age_ms=2000,grpc.primary_user_agent=me=you,a=-1"
    assert channel_arguments(text) == [
        ("grpc.max_connection_age_ms", 2000),
        ("grpc.primary_user_agent", "me=you"),
        ("a", -1),
    ]
    with pytest.raises(ServerError, match="NAME=VALUE"):
        channel_arguments("grpc.x")


def test_production_options_of_the_flags(tmp_path):
    flags = make_parser().parse_args(
        [
            "--rest_api_enable_cors_support",
            "--health_urls",
            "--open_inference=true",
            "--rest_compression_min_bytes=100",
            "--canary=m=a:1,b:3",
            "--shadow=m=c:5",
            f"--request_log={tmp_path}/r",
            "--request_log_sampling_rate=0.5",
            "--grpc_channel_arguments=a=1",
        ]
    )
    options = read_options(flags)
    assert (options.cors, options.health_urls, options.open_inference) == (True, True, True)
    assert options.compression_min_bytes == 100
    assert options.canaries[0].model == "m"
    assert options.shadows[0].share == 0.05
    assert options.request_logs[""].sampling_rate == 0.5
    assert options.grpc_arguments == (("a", 1),)


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--canary=m=a:1", "--canary must be"),
        ("--shadow=m=c:101", "--shadow must be"),
        ("--rest_ssl_cert=a.pem", "both"),
        ("--request_log=logs/", "file's name"),
        ("--rest_compression_min_bytes=-1", "size in bytes"),
        ("--ssl_config_file=/nowhere", "not an SSLConfig"),
    ],
)
def test_invalid_production_options(flag, words):
    with pytest.raises(ServerError, match=words):
        read_options(parsed(flag))
