from __future__ import annotations

from pathlib import Path

import pytest

from preflight.commands.new import new_mission, templates
from preflight.errors import CommandLineError

TEMPLATES = Path(__file__).parents[4] / "cache_templates"


def test_every_mission_file_except_the_demo_is_a_template():
    found = templates(TEMPLATES)
    assert {"route", "workstation"} <= set(found)
    assert "demo" not in found


@pytest.mark.parametrize("name", templates(TEMPLATES))
def test_a_template_is_copied_byte_by_byte(name, tmp_path):
    new_mission(name, TEMPLATES, tmp_path / "mission.yaml")
    assert (tmp_path / "mission.yaml").read_bytes() == (TEMPLATES / f"{name}.yaml").read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["mission.yaml"]


@pytest.mark.parametrize("name", ["", "demo", "Route", "route.yaml", "../cache_templates/route", "/etc/passwd"])
def test_an_unknown_template_is_refused_with_the_names_of_the_others(name, tmp_path):
    with pytest.raises(CommandLineError, match=r"is no template; choose one of .*route.*workstation"):
        new_mission(name, TEMPLATES, tmp_path / "mission.yaml")
    assert list(tmp_path.iterdir()) == []


def test_an_existing_mission_is_not_changed(tmp_path):
    target = tmp_path / "mission.yaml"
    target.write_text("mine")
    with pytest.raises(CommandLineError, match="exists already and was not changed"):
        new_mission("route", TEMPLATES, target)
    assert target.read_text() == "mine"


def test_a_link_whose_target_is_gone_is_not_replaced(tmp_path):
    target = tmp_path / "mission.yaml"
    target.symlink_to("elsewhere.yaml")
    with pytest.raises(CommandLineError, match="exists already"):
        new_mission("route", TEMPLATES, target)
    assert target.is_symlink()
    assert not (tmp_path / "elsewhere.yaml").exists()


def test_a_target_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CommandLineError, match="cannot be written"):
        new_mission("route", TEMPLATES, tmp_path / "file" / "mission.yaml")
