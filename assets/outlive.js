// A tab outlives its studio. Gradio notices that only by a request that breaks, and none does where the page was still
// loading or its look at the queue hangs; so the tab asks by itself who answers, and begins again with another studio.
setInterval(async () => {
  const mine = window.gradio_config?.app_id;
  if (mine === undefined) return;
  try {
    const answer = await fetch("gradio_api/app_id", {cache: "no-store", signal: AbortSignal.timeout(5000)});
    if (answer.ok && (await answer.json()).app_id !== mine) location.reload();
  } catch { /* nobody answers now; it is asked again */ }
}, 3000);
