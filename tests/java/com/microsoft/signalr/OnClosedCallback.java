package com.microsoft.signalr;

public interface OnClosedCallback {
    void invoke(Exception exception);
}
