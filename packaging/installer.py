"""The Windows installer from a frozen folder: `python packaging/installer.py FOLDER VERSION OUT`.

Writes the NSIS script with one line for every file, so that uninstalling removes exactly what was
installed, checks it against the folder, and compiles it with makensis. Clips, packs and settings
lie elsewhere and are not named in it.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path, PureWindowsPath

LIMIT = 2 * 10**9  # bytes that makensis takes

SCRIPT = r"""Unicode true
{compressor}
!include "MUI2.nsh"
!include "x64.nsh"
Name "Neodragon Studio"
OutFile "{out}"
RequestExecutionLevel user
InstallDir "$LOCALAPPDATA\Programs\Neodragon Studio"
InstallDirRegKey HKCU "Software\Neodragon Studio" "folder"
VIProductVersion "{version}.0"
VIAddVersionKey "ProductName" "Neodragon Studio"
VIAddVersionKey "FileVersion" "{version}"
VIAddVersionKey "FileDescription" "Neodragon Studio's installer"
VIAddVersionKey "LegalCopyright" "BSD-3-Clause-Clear"
!define MUI_FINISHPAGE_RUN "$INSTDIR\neodragon-studio.exe"
!insertmacro MUI_PAGE_DIRECTORY
!insertmacro MUI_PAGE_INSTFILES
!insertmacro MUI_PAGE_FINISH
!insertmacro MUI_UNPAGE_CONFIRM
!insertmacro MUI_UNPAGE_INSTFILES
!insertmacro MUI_LANGUAGE "English"
!insertmacro MUI_LANGUAGE "German"
!insertmacro MUI_LANGUAGE "SimpChinese"
!define UNINSTALL "Software\Microsoft\Windows\CurrentVersion\Uninstall\Neodragon Studio"

Section "Install"
{install}
  SetOutPath "$INSTDIR"
  WriteUninstaller "$INSTDIR\uninstall.exe"
  CreateShortcut "$SMPROGRAMS\Neodragon Studio.lnk" "$INSTDIR\neodragon-studio.exe"
  WriteRegStr HKCU "Software\Neodragon Studio" "folder" "$INSTDIR"
  WriteRegStr HKCU "${{UNINSTALL}}" "DisplayName" "Neodragon Studio"
  WriteRegStr HKCU "${{UNINSTALL}}" "DisplayVersion" "{version}"
  WriteRegStr HKCU "${{UNINSTALL}}" "UninstallString" '"$INSTDIR\uninstall.exe"'
  WriteRegDWORD HKCU "${{UNINSTALL}}" "EstimatedSize" {kilobytes}
  WriteRegDWORD HKCU "${{UNINSTALL}}" "NoModify" 1
SectionEnd

Section "Uninstall"
{uninstall}
  Delete "$INSTDIR\uninstall.exe"
  RMDir "$INSTDIR"
  Delete "$SMPROGRAMS\Neodragon Studio.lnk"
  DeleteRegKey HKCU "${{UNINSTALL}}"
  DeleteRegKey HKCU "Software\Neodragon Studio"
SectionEnd
"""


def script(folder: Path, version: str, out: Path, compress: bool = True) -> str:
    """The NSIS script; folders are removed only where they are empty."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    folders = sorted({parent for f in files for parent in f.relative_to(folder).parents})
    install, uninstall = [], []
    for inner in folders:
        here = [file for file in files if file.relative_to(folder).parent == inner]
        if here:
            install.append(f'  SetOutPath "{_installed(inner)}"')
            install += [f'  File "{file}"' for file in here]
    for file in files:
        uninstall.append(f'  Delete "{_installed(file.relative_to(folder))}"')
    for inner in sorted(folders, key=lambda path: len(path.parts), reverse=True):
        if inner.parts:
            uninstall.append(f'  RMDir "{_installed(inner)}"')
    return SCRIPT.format(
        compressor="SetCompressor /SOLID lzma" if compress else "SetCompress off",
        out=_quoted(str(out.absolute())),
        version=version,
        install="\n".join(install),
        uninstall="\n".join(uninstall),
        kilobytes=sum(file.stat().st_size for file in files) // 1024,
    )


def check(text: str, folder: Path) -> None:
    """Raise ValueError unless the script installs all of the folder and removes no more than it."""
    wanted = {_installed(f.relative_to(folder)) for f in folder.rglob("*") if f.is_file()}
    body, _, rest = text.partition('Section "Uninstall"')
    here, installed = "", set()
    for line in body.splitlines():
        if found := re.match(r'  SetOutPath "(.*)"', line):
            here = found[1]
        elif found := re.match(r'  File "(.*)"', line):
            installed.add(f"{here}\\{Path(found[1]).name.replace('$', '$$')}")
    deleted = set(re.findall(r'  Delete "(\$INSTDIR.*)"', rest))
    own = {"$INSTDIR\\uninstall.exe"}
    if installed != wanted or deleted != wanted | own or "/r" in rest:
        odd = sorted((installed ^ wanted) | (deleted ^ (wanted | own)))[:3]
        raise ValueError(f"the script should name the folder's files alone, but see {odd}")


def _installed(path: Path) -> str:
    return "\\".join(["$INSTDIR", *map(_quoted, PureWindowsPath(*path.parts).parts)])


def _quoted(text: str) -> str:
    return text.replace("$", "$$")


def main() -> None:
    folder, version, out = Path(sys.argv[1]).absolute(), sys.argv[2], Path(sys.argv[3])
    quick = sys.argv[4:] == ["--quick"]
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    if size > LIMIT:
        sys.exit(f"The folder should have less than 2 GB, but it has {size / 1e9:.1f}.")
    text = script(folder, version, out, not quick)
    check(text, folder)
    path = out.with_suffix(".nsi")
    path.write_text(text, encoding="utf-8-sig")
    subprocess.run(["makensis", "-V2", str(path)], check=True)


if __name__ == "__main__":
    main()
