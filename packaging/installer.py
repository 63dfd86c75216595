"""The Windows installer from a frozen folder: `python packaging/installer.py FOLDER VERSION OUT`.

Writes one NSIS script and compiles it with makensis, which compiles it once more for the
uninstaller. That names every file, so it removes exactly what was installed. Both refuse, with exit
code 2 and nothing changed, where the studio is open; the installer also where the disk is full: it
unpacks beside the old version and changes places only when all is there. Clips, packs and settings
lie elsewhere and are not named. $NEODRAGON_SIGN is run with each of the two programs.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path, PureWindowsPath

LIMIT = 2 * 10**9  # bytes that makensis takes
UNINSTALLER = "uninstall.exe"
MODULES = {".exe", ".dll", ".pyd"}  # Windows keeps those open for as long as they run
ARM64 = 0xAA64
WORDS = {  # id: English, German, Simplified Chinese
    "OPEN": (
        "Neodragon Studio is open. Close it, then try again. Nothing was changed.",
        "Neodragon Studio ist geöffnet. Schließen Sie es und versuchen Sie es noch einmal."
        " Nichts wurde geändert.",
        "Neodragon Studio 正在运行。请先关闭它，然后重试。未作任何更改。",
    ),
    "FULL": (
        "The disk needs {megabytes} MB free. Free some space, then try again. Nothing was changed.",
        "Auf dem Datenträger müssen {megabytes} MB frei sein. Schaffen Sie Platz und versuchen Sie"
        " es noch einmal. Nichts wurde geändert.",
        "磁盘需要 {megabytes} MB 可用空间。请释放空间，然后重试。未作任何更改。",
    ),
    "FAILED": (
        "Not every file could be written. Start the installer again.",
        "Nicht alle Dateien konnten geschrieben werden. Starten Sie die Installation noch einmal.",
        "有文件无法写入。请重新运行安装程序。",
    ),
    "ASK": (
        "Remove Neodragon Studio? Your clips, packs and settings stay.",
        "Neodragon Studio entfernen? Ihre Clips, Pakete und Einstellungen bleiben.",
        "要卸载 Neodragon Studio 吗？您的视频片段、模型包和设置会保留。",
    ),
    "ARM": (
        "This installer is for Windows on Arm, and this PC is not. Install it all the same?",
        "Dieses Programm ist für Windows on Arm, dieser PC ist keiner. Trotzdem installieren?",
        "此安装程序适用于 Arm 版 Windows，与本机不符。仍要安装吗？",
    ),
}
LANGUAGES = ("English", "German", "SimpChinese")
SCRIPT = r"""Unicode true
ManifestDPIAware true
ManifestLongPathAware true
!ifdef UNINSTALLER
  SetCompress off
  OutFile "${{__FILE__}}.exe"
  !define ROLE "uninstaller"
!else
  {compressor}
  OutFile "{out}"
  !define ROLE "installer"
  !system 'makensis -V2 -WX -DUNINSTALLER "${{__FILE__}}"' = 0
!endif
{sign}
!include "MUI2.nsh"
!include "x64.nsh"
!include "FileFunc.nsh"
!include "LogicLib.nsh"
Name "Neodragon Studio"
RequestExecutionLevel user
VIProductVersion "{version}.0"
VIAddVersionKey "ProductName" "Neodragon Studio"
VIAddVersionKey "FileVersion" "{version}"
VIAddVersionKey "ProductVersion" "{version}"
VIAddVersionKey "FileDescription" "Neodragon Studio's ${{ROLE}}"
VIAddVersionKey "LegalCopyright" "BSD-3-Clause-Clear"
!define KEY "Software\Microsoft\Windows\CurrentVersion\Uninstall\Neodragon Studio"
!define NEW "$INSTDIR\_new"  ; where the installer unpacks
!ifndef UNINSTALLER
  InstallDir "$LOCALAPPDATA\Programs\Neodragon Studio"
  InstallDirRegKey HKCU "Software\Neodragon Studio" "folder"
  !define MUI_FINISHPAGE_RUN "$INSTDIR\neodragon-studio.exe"
  !insertmacro MUI_PAGE_DIRECTORY
!endif
!insertmacro MUI_PAGE_INSTFILES
!ifndef UNINSTALLER
  !insertmacro MUI_PAGE_FINISH
!endif
{words}

!macro Refuse words
  MessageBox MB_OK|MB_ICONSTOP "${{words}}" /SD IDOK
  !ifndef UNINSTALLER
    RMDir /r "${{NEW}}"
    RMDir "$INSTDIR"
  !endif
  SetErrorLevel 2
  Quit
!macroend

!ifndef UNINSTALLER
Function .onInit
{arm}FunctionEnd

Function .onInstFailed
  SetOutPath "$TEMP"
  RMDir /r "${{NEW}}"
  RMDir "$INSTDIR"
FunctionEnd

Section "Install"
  SetOutPath "$TEMP"
  Call RefuseWhereOpen
  RMDir /r "${{NEW}}"
  CreateDirectory "${{NEW}}"
  System::Call 'kernel32::GetDiskFreeSpaceExW(w "${{NEW}}", *l .r1, p 0, p 0) i .r2'
  ${{If}} $2 != 0
    System::Int64Op $1 / 1048576
    Pop $1
    System::Int64Op $1 < {megabytes}
    Pop $2
    ${{If}} $2 = 1
      !insertmacro Refuse "$(FULL)"
    ${{EndIf}}
  ${{EndIf}}
  ClearErrors
{install}
  SetOutPath "$TEMP"
  IfErrors failed
  Call RefuseWhereOpen
  StrCpy $3 0
  ${{If}} ${{FileExists}} "$INSTDIR\neodragon-studio.exe"
    StrCpy $3 1  ; an older version is here, and _internal is its own
  ${{EndIf}}
  ${{If}} ${{FileExists}} "$INSTDIR\uninstall.exe"
    ClearErrors
    ExecWait '"$INSTDIR\uninstall.exe" /S /child _?=$INSTDIR' $0
    IfErrors failed
    StrCmp $0 0 0 failed
  ${{EndIf}}
  ${{If}} $3 = 1
    RMDir /r "$INSTDIR\_internal"
  ${{EndIf}}
  ClearErrors
{move}
  RMDir "${{NEW}}"
  SetOutPath "$INSTDIR"
  CreateShortcut "$SMPROGRAMS\Neodragon Studio.lnk" "$INSTDIR\neodragon-studio.exe"
  SetOutPath "$TEMP"
  WriteRegStr HKCU "Software\Neodragon Studio" "folder" "$INSTDIR"
  WriteRegStr HKCU "${{KEY}}" "DisplayName" "Neodragon Studio"
  WriteRegStr HKCU "${{KEY}}" "DisplayVersion" "{version}"
  WriteRegStr HKCU "${{KEY}}" "DisplayIcon" "$INSTDIR\neodragon-studio.exe"
  WriteRegStr HKCU "${{KEY}}" "InstallLocation" "$INSTDIR"
  WriteRegStr HKCU "${{KEY}}" "UninstallString" '"$INSTDIR\uninstall.exe"'
  WriteRegStr HKCU "${{KEY}}" "QuietUninstallString" '"$INSTDIR\uninstall.exe" /S'
  WriteRegDWORD HKCU "${{KEY}}" "EstimatedSize" {kilobytes}
  WriteRegDWORD HKCU "${{KEY}}" "NoModify" 1
  Return
failed:
  MessageBox MB_OK|MB_ICONSTOP "$(FAILED)" /SD IDOK
  Abort
SectionEnd

!else
; A program cannot delete itself, and one that only starts another says nothing of how that ended.
; So a copy in TEMP does the work (/child), is waited for, and then removes this file (/finish).
Function .onInit
  SetOutPath "$TEMP"
  ${{GetParameters}} $0
  ClearErrors
  ${{GetOptions}} $0 "/folder=" $INSTDIR
  ${{If}} ${{Errors}}
    StrCpy $INSTDIR "$EXEDIR"
  ${{EndIf}}
  ClearErrors
  ${{GetOptions}} $0 "/finish" $1
  ${{IfNot}} ${{Errors}}
    ${{For}} $1 1 300
  Delete "$INSTDIR\uninstall.exe"
      ${{IfNot}} ${{FileExists}} "$INSTDIR\uninstall.exe"
        ${{Break}}
      ${{EndIf}}
      Sleep 100
    ${{Next}}
  RMDir "$INSTDIR"
    Delete /REBOOTOK "$EXEPATH"
    Quit
  ${{EndIf}}
  ClearErrors
  ${{GetOptions}} $0 "/child" $1
  ${{If}} ${{Errors}}
    MessageBox MB_YESNO|MB_ICONQUESTION "$(ASK)" /SD IDYES IDYES +3
    SetErrorLevel 1
    Quit
    GetTempFileName $2
    Delete $2
    StrCpy $2 "$2.exe"
    CopyFiles /SILENT "$EXEPATH" "$2"
    StrCpy $3 ""
    ${{If}} ${{Silent}}
      StrCpy $3 "/S"
    ${{EndIf}}
    ClearErrors
    ExecWait '"$2" $3 /child /folder="$INSTDIR"' $4
    ${{If}} ${{Errors}}
      StrCpy $4 2
    ${{EndIf}}
    ${{If}} $4 = 0
      Exec '"$2" /S /finish /folder="$INSTDIR"'
    ${{Else}}
      Delete "$2"
    ${{EndIf}}
    SetErrorLevel $4
    Quit
  ${{EndIf}}
FunctionEnd

Section "Remove"
  Call RefuseWhereOpen
{uninstall}
  ReadRegStr $0 HKCU "Software\Neodragon Studio" "folder"
  ${{If}} $0 == $INSTDIR
    Delete "$SMPROGRAMS\Neodragon Studio.lnk"
    DeleteRegKey HKCU "${{KEY}}"
    DeleteRegKey HKCU "Software\Neodragon Studio"
  ${{EndIf}}
SectionEnd
!endif

Function RefuseWhereOpen
{modules}
  Return
open:
  !insertmacro Refuse "$(OPEN)"
FunctionEnd
"""
ARM_ASKS = """  ${IfNot} ${IsNativeARM64}
    MessageBox MB_YESNO|MB_ICONQUESTION "$(ARM)" /SD IDYES IDYES +2
    Abort
  ${EndIf}
"""


def script(folder: Path, version: str, out: Path, compress: bool = True) -> str:
    """The NSIS script; folders are removed only where they are empty."""
    files = files_of(folder)
    kilobytes = sum((folder / file).stat().st_size for file in files) // 1024
    megabytes = kilobytes // 1024 + 50
    signer = os.environ.get("NEODRAGON_SIGN")
    return SCRIPT.format(
        out=_quoted(str(out.absolute())),
        version=version,
        compressor="SetCompressor /SOLID lzma" if compress else "SetCompress off",
        sign=f"!finalize '{signer} \"%1\"' = 0" if signer else "",
        words=_words(megabytes),
        modules=_modules(files),
        install=_install(folder, files),
        move=_move(files),
        uninstall=_uninstall(files),
        arm=ARM_ASKS if _is_arm(folder / "neodragon-studio.exe") else "",
        kilobytes=kilobytes,
        megabytes=megabytes,
    )


def files_of(folder: Path) -> list[Path]:
    """Every file of the frozen folder, relative to it, but the uninstaller."""
    found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(path for path in found if path != Path(UNINSTALLER))


def _words(megabytes: int) -> str:
    lines = [f'!insertmacro MUI_LANGUAGE "{name}"' for name in LANGUAGES]
    for name, words in WORDS.items():
        for language, text in zip(LANGUAGES, words, strict=True):
            said = text.format(megabytes=megabytes)
            lines.append(f'LangString {name} ${{LANG_{language.upper()}}} "{said}"')
    return "\n".join(lines)


def _modules(files: list[Path]) -> str:
    """To `open` where one of the programs and libraries that are there is in use."""
    lines = []
    for file in files:
        if file.suffix.lower() in MODULES:
            path = _installed(file)
            lines += [f'  IfFileExists "{path}" 0 +5', "  ClearErrors"]
            lines += [f'  FileOpen $0 "{path}" a', "  IfErrors open", "  FileClose $0"]
    # A folder of Linux has none of them; the label still has to be used.
    return "\n".join(lines or ['  StrCmp "a" "b" open'])


def _install(folder: Path, files: list[Path]) -> str:
    lines = []
    for inner in sorted({file.parent for file in files}):
        lines.append(f'  SetOutPath "{_installed(inner, "${NEW}")}"')
        lines += [f'  File "{folder / f}"' for f in files if f.parent == inner]
    lines.append('  SetOutPath "${NEW}"')
    lines.append(f'  File "/oname={UNINSTALLER}" "${{__FILE__}}.exe"')
    return "\n".join(lines)


def _move(files: list[Path]) -> str:
    """From where they were unpacked to their places: folders whole."""
    lines = []
    for name in sorted({file.parts[0] for file in [*files, Path(UNINSTALLER)]}):
        if Path(name) in [*files, Path(UNINSTALLER)]:
            lines += [f'  Delete "{_installed(Path(name))}"', "  ClearErrors"]
        lines.append(f'  Rename "{_installed(Path(name), "${NEW}")}" "{_installed(Path(name))}"')
        lines.append("  IfErrors failed")
    return "\n".join(lines)


def _uninstall(files: list[Path]) -> str:
    lines = [f'  Delete "{_installed(file)}"' for file in files]
    folders = {parent for file in files for parent in file.parents if parent.parts}
    for inner in sorted(folders, key=lambda path: (-len(path.parts), path)):
        lines.append(f'  RMDir "{_installed(inner)}"')
    return "\n".join(lines)


def _is_arm(program: Path) -> bool:
    """Whether a PE file is for ARM64."""
    head = program.read_bytes()[:4096] if program.is_file() else b""
    start = int.from_bytes(head[60:64], "little")
    return head[start + 4 : start + 6] == ARM64.to_bytes(2, "little")


def check(text: str, folder: Path) -> None:
    """Raise ValueError unless the script installs all of the folder and removes no more than it."""
    wanted = {_installed(file) for file in files_of(folder)}
    own = {f"$INSTDIR\\{UNINSTALLER}"}
    body, _, rest = text.partition("\n!else\n; ")
    here, installed = "", set()
    for line in body.splitlines():
        if found := re.match(r'  SetOutPath "(.*)"', line):
            here = found[1].replace("${NEW}", "$INSTDIR")
        elif found := re.match(r'  File "/oname=(.*?)"', line):
            installed.add(f"{here}\\{found[1]}")
        elif found := re.match(r'  File "(.*)"', line):
            installed.add(f"{here}\\{_quoted(Path(found[1]).name)}")
    deleted = set(re.findall(r'  Delete "(\$INSTDIR.*)"', rest))
    if installed != wanted | own or deleted != wanted | own or "/r" in rest:
        odd = sorted((installed ^ (wanted | own)) | (deleted ^ (wanted | own)))[:3]
        raise ValueError(f"the script must name the folder's files alone; it differs in {odd}")


def _installed(path: Path, base: str = "$INSTDIR") -> str:
    return "\\".join([base, *map(_quoted, PureWindowsPath(*path.parts).parts)])


def _quoted(text: str) -> str:
    return text.replace("$", "$$")


def main() -> None:
    folder, version, out = Path(sys.argv[1]).absolute(), sys.argv[2], Path(sys.argv[3])
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    if size > LIMIT:
        sys.exit(f"The folder should have less than 2 GB, but it has {size / 1e9:.1f}.")
    text = script(folder, version, out, compress=sys.argv[4:] != ["--quick"])
    check(text, folder)
    path = out.with_suffix(".nsi")
    path.write_text(text, encoding="utf-8-sig")
    subprocess.run(["makensis", "-V2", "-WX", str(path)], check=True)
    path.with_suffix(".nsi.exe").unlink()


if __name__ == "__main__":
    main()
