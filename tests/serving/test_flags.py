"""TF Serving's flags: all of them are taken, the unknown refused."""

import argparse

import pytest

from serving.deploy.check.flags import FLAGS
from serving.server.errors import ServerError
from serving.server.extras import add_extra_flags, read_extras
from serving.server.flags import (
    add_unused_flags,
    channel_arguments,
    parse_flags,
    unused_warnings,
)


def parser():
    made = argparse.ArgumentParser(prog="server", allow_abbrev=False)
    add_unused_flags(made)
    add_extra_flags(made)
    return made


def parsed(*arguments):
    return parse_flags(parser(), arguments)


def test_defaults_say_nothing_and_switch_nothing_on():
    from serving.server.extras import NO_EXTRAS

    flags = parsed()
    assert unused_warnings(flags) == []
    assert read_extras(flags) == NO_EXTRAS


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


def test_every_flag_of_tf_serving_is_taken():
    from serving.server import __main__ as command

    known = {name for action in command._parser()._actions for name in action.option_strings}
    assert {f"--{name}" for name in FLAGS} - known == set()


def test_the_limit_of_a_run_reaches_the_engines():
    from serving.server import __main__ as command

    for flags, limit in (([], 300_000), (["--run_timeout_ms=250"], 250)):
        assert command._engines(command._parser().parse_args(flags)).run_timeout_ms == limit


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


def test_extras_of_the_flags(tmp_path):
    flags = parser().parse_args(
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
    extras = read_extras(flags)
    assert (extras.cors, extras.health_urls, extras.open_inference) == (True, True, True)
    assert extras.compression_min_bytes == 100
    assert extras.canaries[0].model == "m"
    assert extras.shadows[0].share == 0.05
    assert extras.request_logs[""].sampling_rate == 0.5
    assert extras.grpc_arguments == (("a", 1),)


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
def test_extras_that_make_no_sense(flag, words):
    with pytest.raises(ServerError, match=words):
        read_extras(parsed(flag))
