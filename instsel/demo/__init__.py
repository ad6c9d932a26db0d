"""The demo: a small trained model, data whose truth is known, and a page that shows what the methods find."""
